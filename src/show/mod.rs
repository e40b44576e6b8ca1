//! Text for people: tables for terminals, and HTML.

pub mod html;
pub mod table;
