//! A data set at work: scan, fill, load and the live front, from the parts below.
