"""What a release can carry: measured, foretold, proven."""
