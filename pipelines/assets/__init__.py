"""The chapters of a release as Dagster assets: one function a chapter, from settings to assets and checks.

optimize   registered_model → onnx_model → rungs → release_model
package    serving_plan → bento
load       load_test
rollout    deployment
score      scoring_input → scores
monitor    drift, performance
report     release_report, monitoring_report
common     what the chapters share: keys, partitions, checks that read recorded verdicts
"""
