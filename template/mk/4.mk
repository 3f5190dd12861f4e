# Level 4
export ONCE FAULT ROWS URL SEED

.PHONY: monitor compact freeze thaw selftest autopilot status console rehearse simulate

monitor: ## judge what an environment answered since the last look: make monitor ENV=prod; or FILE=scored.parquet
	@$(OPS) monitor --file "$$FILE"

compact: ## turn what is closed of the prediction log into Parquet, and remove what config/policy.yaml says
	@$(OPS) compact

freeze: ## stop what changes by itself, watching goes on: make freeze WHY=reason
	@$(OPS) freeze --why "$$WHY"

thaw: ## let it change by itself again: make thaw WHY=reason
	@$(OPS) thaw --why "$$WHY"

selftest: ## plant the fault of every guard, and show whether each is caught
	@$(OPS) selftest

autopilot: ## look, decide, retrain and deploy through the gates, for as long as it runs (EVERY=60 seconds; ONCE=yes)
	@$(OPS) autopilot --every "$${EVERY:-60}" --once "$$ONCE"

status: ## write reports/status.html: is it on, is it good, for whom is it bad, what changed, what waits for a decision
	@$(OPS) status

rehearse: ## live through your own past with the whole loop before it goes live: reports/rehearsal.html
	@$(OPS) rehearse

console: PORT = 8090
console: ## serve the status page, made anew at every look, and a page to try cases and to decide (PORT=8090)
	@$(OPS) console --port "$(PORT)" --url "$${URL:-http://127.0.0.1:8080}"

simulate: ## send a running service traffic with truth, and a fault in it: make simulate FAULT=concept (ROWS=1000, SEED=0; URL= of another port)
	@$(OPS) simulate --fault "$${FAULT:-none}" --rows "$${ROWS:-1000}" --url "$${URL:-http://127.0.0.1:8080}" --seed "$${SEED:-0}"
