"""What can be seen from outside.

counts    numbers that all workers add up together, in mapped files
metrics   what Prometheus sees
logs      JSON lines; storms of events once a second
traces    OpenTelemetry spans, where a collector is configured
capture   the prediction log: a bounded buffer and its thread
records   answered jobs as Arrow, by one schema
segments  whole Parquet files, oldest removed first
"""
