"""One door for each outside system: an abstract class, its real implementation, no decisions.

registry      MLflow: which versions there are, and their files (mlmodel reads what was registered)
bento_store   BentoML: building a bento and serving it (environments makes the Python it is served from)
processes     supervisord: keeping services alive
envoy         the shared address (envoy_config is what Envoy is told, envoy_admin what it says)
deployments   one release taking over from another, over the three doors above and the ledger
client        asks a service for predictions, and what it says of itself
machine       what this machine is
traffic       the load generator (load/ is how it sends: exact, sending, wire, http_wire, grpc_wire, progress)
payloads      real rows as requests: JSON, binary, gRPC
prediction_log  rows that clients sent, read back
ledger        who was put into production, when, and on what evidence
tables        files and folders replaced in one step
notebooks     papermill reports
"""
