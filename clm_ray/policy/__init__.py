"""Rules of retention: actions, masks, the distribution over what is left, and the draw. Pure: no clock, no state, no I/O."""
