//! Tests of images and of the index of addresses from outside, with everybody who reads images:
//! the kernel, Debian's tools, another implementation.

#[cfg(test)]
mod addresses;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reader;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod search;
#[cfg(test)]
mod special;
#[cfg(test)]
#[path = "../namespace/support.rs"]
mod support;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod view;
