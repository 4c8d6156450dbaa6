"""One door for each outside system: an abstract class, its real implementation, no decisions.

registry      MLflow: which versions there are, and their files (mlmodel reads what was registered)
bento_store   BentoML: building a bento and serving it (environments makes the Python it is served from)
processes     supervisord: keeping services alive
router        the shared address, as everything else knows it
envoy         the real one (envoy_config is what it is told once, envoy_clusters of services, envoy_routes of
              sharing out, envoy_guards of who and what is let in, envoy_types their words; envoy_files are
              replaced and confirmed, envoy_start is before it runs, envoy_admin what it says)
access_log    what the router writes of every request
containers    images: built, looked into, run (engines: podman, docker, buildah; image_files reads one)
services      a release as a running service
deployments   one release taking the place of another, over the doors above and the ledger
draining      ends services that nobody waits for any more
drill         a rollback rehearsed in staging
telemetry     what is known of both arms of a rollout (logged_requests by the access log, tail reads one that
              grows; logged_answers by the prediction log; service_counts by /metrics; measuring takes metrics
              of labels again and again, measures is one of them)
journal       what a rollout looked like from moment to moment
paired_log    what two releases answered, side by side
alias         the alias of the registry, which follows the ledger
client        asks a service for predictions, and what it says of itself
machine       what this machine is
traffic       the load generator (load/ is how it sends: exact, sending, wire, http_wire, grpc_wire, progress)
payloads      real rows as requests: JSON, binary, gRPC
prediction_log  rows that clients sent, read back
ledger        who was put into production, when, and on what evidence (sql_ledger: as a table; sqlite_ledger,
              postgres_ledger: where)
tables        files and folders replaced in one step
notebooks     papermill reports
"""
