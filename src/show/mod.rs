//! Text for people: tables for terminals, HTML, and the files that it goes to.

pub mod file;
pub mod html;
pub mod table;
