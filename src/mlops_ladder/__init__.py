"""The companion of the template: climb, update and look after projects, with nothing lost."""
