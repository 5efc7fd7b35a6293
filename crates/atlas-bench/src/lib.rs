//! Slow-origin emulator and the reader loops of the benchmarks.
