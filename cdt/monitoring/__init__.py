"""What a run shows while it goes on.

writers             metrics as JSONL, and to TensorBoard
history             convergence and stages from what was logged
run_log             metrics, progress and samples of a training run
convergence_report  convergence of a finished run
profile             a trace of a few steps
console             messages and phases on standard error, which never fail
progress            a bar in a terminal, plain lines elsewhere
goodput             where the time went
plots               sample grids and convergence as PNG
"""
