"""How one release takes the place of another: step by step, by statistics that may be watched."""
