# Level 1
PORT ?= 8080
export OUTPUT PORT VERSION CONFIRM BASE_IMAGE UV_IMAGE

.PHONY: check format guards data contract serve wheel image release

check: ## lint, format, types, tests with coverage
	@$(OPS) check

format: ## mend what lint and format find, where that can be done
	@$(OPS) format

guards: ## plant the fault of every guard, and show whether it was caught
	@$(OPS) guards

data: ## collect every source again and check it
	@$(OPS) data

contract: ## write config/contract.yaml anew from the trained model
	@$(OPS) contract

serve: ## answer requests on this machine: make serve PORT=8080
	@$(OPS) serve --port "$$PORT"

wheel: ## build the project's wheel into dist/
	@$(OPS) wheel

image: ## build the container image of the service (OUTPUT=image.tar saves it)
	@$(OPS) image --output "$$OUTPUT"

release: ## show what a release would do: make release VERSION=0.2.0 (CONFIRM=yes does it)
	@$(OPS) release --version "$$VERSION" --confirm "$$CONFIRM"
