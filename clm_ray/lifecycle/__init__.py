"""Who a user is over time: stages and label windows. Pure NumPy: no I/O, no clock, no state."""
