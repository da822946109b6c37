//! Kernel objects → what each table of the chip should hold, and why. Pure: no clock, no I/O, no memory of the chip.
