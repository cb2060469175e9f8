"""Metrics, messages and plots of a run.

writers             metrics in metrics.jsonl and for TensorBoard
history             convergence and stages from logged metrics
run_log             metrics, progress and samples of a training run
convergence_report  convergence of a finished run
profile             a trace of a few steps
console             messages and phases on standard error, which never fail
progress            a bar in a terminal, plain lines elsewhere
goodput             wall-clock time by activity
plots               sample grids and convergence as PNG
"""
