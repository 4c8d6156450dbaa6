"""One door for each outside system: an abstract class, its real implementation, no decisions.

registry      MLflow: which versions there are, and their files
bento_store   BentoML: building a bento and serving it from its own environment
processes     supervisord: keeping services alive
envoy         the shared address and what it routes to
deployments   one release taking over from another, over the three doors above and the ledger
traffic       the load generator
ledger        who was put into production, when, and on what evidence
tables        Parquet files committed atomically
notebooks     papermill reports
"""
