"""One door for each outside system: an abstract class, its real implementation, no decisions.

registry      MLflow: which versions there are, and their files (mlmodel reads what was registered)
bento_store   BentoML: building a bento and serving it (environments makes the Python it is served from)
processes     supervisord: keeping services alive
envoy         the shared address (envoy_config is what Envoy is told, envoy_admin what it says)
deployments   one release taking over from another, over the three doors above and the ledger
client        asks a service for predictions
traffic       the load generator
ledger        who was put into production, when, and on what evidence
tables        files and folders replaced in one step
notebooks     papermill reports
"""
