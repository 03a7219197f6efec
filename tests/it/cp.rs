//! `ebsfs cp`, from real file systems, compared with what the kernel shows of them.

mod arguments;
mod fixture;
mod kernel_view;
mod kills;
