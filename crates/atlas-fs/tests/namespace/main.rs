//! Tests of the namespace from outside.

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod every_instruction;
#[cfg(test)]
mod extended;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod model;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tree;
