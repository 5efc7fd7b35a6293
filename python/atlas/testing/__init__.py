"""For tests of Atlas and of what is built on it: real nodes, trees of odd files, invariants."""
