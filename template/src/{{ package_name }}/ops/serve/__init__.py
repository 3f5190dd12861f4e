"""The room of serving: answers from the model file. What a service imports needs no training library."""
