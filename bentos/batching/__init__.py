"""The adaptive batcher.

costs       what a batch takes, corrected by every run
forecast    how long batches and queues will take on one engine
waiting     the queue: rows by length, large requests in chunks
returns     whether clients come back at once, as in a closed loop
scheduling  which rows form the next batch, and who is refused: decisions only
assembly    jobs to input tensors, outputs to answers
attempts    one batch in the model, halved while it fails
workers     the threads of an engine
batcher     all that on the event loop
"""
