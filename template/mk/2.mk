# Level 2
export RUN THREADS VERSION WHY APPLY N FILE BY EVERY
# outside make ENV may mean something else: from there only the names of environments count
export MODEL_ENV = $(if $(filter environment,$(origin ENV)),$(filter dev staging prod,$(ENV)),$(ENV))

.PHONY: pipeline reproduce models runs promote ui tune queue labels watch

# a version named outside of make may be that of anything
train pipeline data tune: export DATA_VERSION = $(if $(filter command,$(origin VERSION)),$(VERSION))

pipeline: ## run the stages whose input has changed, and register the model (VERSION= of earlier data)
	@$(OPS) pipeline

reproduce: ## do a recorded run again and compare: make reproduce RUN=20261123 (THREADS=1)
	@$(OPS) reproduce --run "$$RUN" --threads "$$THREADS"

tune: ## search for better parameters (APPLY=yes puts them into config/model.yaml; VERSION= of earlier data)
	@$(OPS) tune --apply "$$APPLY"

queue: ## choose the rows that people should label: make queue N=50 (INPUT=rows.csv)
	@$(OPS) queue --count "$${N:-50}" --input "$$INPUT"

labels: ## take in the answers of people: make labels FILE=labels/queue.csv (BY=name)
	@$(OPS) labels --file "$$FILE" --by "$$BY"

watch: ## run the pipeline whenever new data are dropped in place: make watch (EVERY=10, in seconds)
	@$(OPS) watch --every "$${EVERY:-10}"

models: ## list the versions of the model, and what each environment uses
	@$(OPS) models

runs: ## list the runs side by side
	@$(OPS) runs

promote: ## let an environment use a version: make promote VERSION=3 ENV=prod (WHY=reason)
	@$(OPS) promote --version "$$VERSION" --why "$$WHY"

ui: PORT = 5000
ui: ## show runs and versions in MLflow's pages: make ui PORT=5000
	@$(OPS) ui --port "$(PORT)"
