# Level 3
export ID WHY SHARE SHADOW DECIDE
# outside make LOG may mean something else: from there only yes counts
score: export LOGGED = $(if $(filter environment,$(origin LOG)),$(filter yes,$(LOG)),$(LOG))

.PHONY: deploy rollback approve refuse releases ship canary trace explain feedback score bench

ready:: # the key that signs releases
	@$(OPS) key

deploy: ## let an environment use a version, if every gate lets it (promote does the same): make deploy VERSION=3 ENV=dev (WHY=reason)
	@$(OPS) deploy --version "$$VERSION" --why "$$WHY"

rollback: ## let an environment use what it used before: make rollback ENV=prod (WHY=reason)
	@$(OPS) rollback --why "$$WHY"

approve: ## say that a version may go to an environment: make approve VERSION=3 ENV=prod (WHY=reason)
	@$(OPS) approve --version "$$VERSION" --why "$$WHY"

refuse: ## say that a version may not go to an environment: make refuse VERSION=3 ENV=prod WHY=reason
	@$(OPS) refuse --version "$$VERSION" --why "$$WHY"

releases: ## verify the ledger, and show what each environment uses and how it came to it
	@$(OPS) releases

ship: ## take a version all the way: dev, staging, a smoke test of the service, prod (VERSION=; else the newest)
	@$(OPS) ship --version "$$VERSION"

canary: ## let a challenger answer a share of the requests: make canary VERSION=4 ENV=prod (SHADOW=yes); DECIDE=yes or stop ends it
	@$(OPS) canary --version "$$VERSION" --share "$$SHARE" --shadow "$$SHADOW" --decide "$$DECIDE"

trace: ## from a prediction back to the source data, every hash verified: make trace ID=...
	@$(OPS) trace --id "$$ID"

explain: ## why a prediction is what it is: make explain ID=...
	@$(OPS) explain --id "$$ID"

feedback: ## take in what became of predictions: make feedback FILE=truth.csv
	@$(OPS) feedback --file "$$FILE"

score: ## score a file larger than memory, going on after a kill: make score INPUT=rows.csv OUTPUT=scored.parquet ENV=prod (LOG=yes logs every row)
	@$(OPS) score --input "$$INPUT" --output "$$OUTPUT" --log "$$LOGGED"

bench: ## measure the service against a bare echo on this machine
	@$(PYTHON) benchmarks/serve.py
