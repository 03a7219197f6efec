//! Read-ahead: what the policy asks for, in a time of its own, and what a mount makes of it.

mod line;
mod mounted;
mod patterns;
mod random;
mod simulated;
