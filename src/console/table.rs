//! Rows and columns, and how they are said: as text, or in PostgreSQL's binary formats, which many drivers ask for.

use bytes::{BufMut, BytesMut};

use crate::wire::write;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Int4,
    Int8,
    Numeric,
    Text,
}

impl Kind {
    /// PostgreSQL's `pg_type.oid`.
    fn oid(self) -> u32 {
        match self {
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Numeric => 1700,
            Self::Text => 25,
        }
    }
}

/// One value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Cell {
    Null,
    Number(u64),
    Text(String),
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What a command shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<(&'static str, Kind)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    /// No rows yet. `columns` is `name`, or `name:i` (int4), `name:q` (int8), `name:n` (numeric).
    pub(super) fn new(columns: &'static [&'static str]) -> Self {
        let column = |text: &'static str| match text.split_once(':') {
            Some((name, "i")) => (name, Kind::Int4),
            Some((name, "q")) => (name, Kind::Int8),
            Some((name, "n")) => (name, Kind::Numeric),
            _ => (text, Kind::Text),
        };
        Self { columns: columns.iter().copied().map(column).collect(), rows: Vec::new() }
    }

    /// RowDescription, in these formats: none, one for all, or one for each.
    pub(super) fn describe(&self, formats: &[i16], outbox: &mut BytesMut) {
        let columns: Vec<_> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (name, kind))| (*name, kind.oid(), u16::from(is_binary(formats, at))))
            .collect();
        write::typed_row_description(outbox, &columns);
    }

    /// Every row.
    pub(super) fn write(&self, formats: &[i16], outbox: &mut BytesMut) {
        for row in &self.rows {
            let cells = row.iter().zip(&self.columns).enumerate();
            let cells: Vec<_> =
                cells.map(|(at, (cell, (_, kind)))| encode(cell, *kind, is_binary(formats, at))).collect();
            let cells: Vec<_> = cells.iter().map(|cell| cell.as_deref()).collect();
            write::data_row(outbox, &cells);
        }
    }
}

fn is_binary(formats: &[i16], at: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all == 1,
        each => each.get(at) == Some(&1),
    }
}

fn encode(cell: &Cell, kind: Kind, is_binary: bool) -> Option<Vec<u8>> {
    let number = match cell {
        Cell::Null => return None,
        Cell::Text(text) => return Some(text.clone().into_bytes()),
        Cell::Number(number) => *number,
    };
    if !is_binary {
        return Some(number.to_string().into_bytes());
    }
    Some(match kind {
        Kind::Int4 => i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
        Kind::Int8 => i64::try_from(number).unwrap_or(i64::MAX).to_be_bytes().to_vec(),
        Kind::Numeric => numeric(number),
        Kind::Text => number.to_string().into_bytes(),
    })
}

/// `numeric_send`: how many digits to the base of 10000, the weight of the first, sign, scale, the digits.
fn numeric(number: u64) -> Vec<u8> {
    const BASE: u64 = 10_000;
    let mut digits = Vec::new();
    let mut rest = number;
    while rest > 0 {
        digits.push((rest % BASE) as u16);
        rest /= BASE;
    }
    let weight = digits.len().saturating_sub(1) as u16;
    let trailing = digits.iter().take_while(|digit| **digit == 0).count();
    let said: Vec<u16> = digits.into_iter().skip(trailing).rev().collect();
    let mut out = Vec::new();
    out.put_u16(said.len() as u16);
    out.put_u16(weight);
    out.put_u16(0); // positive
    out.put_u16(0); // no digits after the point
    said.into_iter().for_each(|digit| out.put_u16(digit));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_is_said_to_the_base_of_ten_thousand() {
        assert_eq!(numeric(0), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(numeric(10_000), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(numeric(20_003), [0, 2, 0, 1, 0, 0, 0, 0, 0, 2, 0, 3]);
    }

    #[test]
    fn formats_are_none_or_one_or_one_for_each() {
        assert!(!is_binary(&[], 3) && is_binary(&[1], 3) && !is_binary(&[0], 3));
        assert!(is_binary(&[0, 1], 1) && !is_binary(&[0, 1], 0) && !is_binary(&[0, 1], 2));
    }
}
