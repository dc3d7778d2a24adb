//! Charts as SVG, pure functions from data.
//!
//! A chart is about as wide as a phone, so that its text is as large there as elsewhere; a page puts several
//! side by side where there is room. Colours are CSS variables of the page, light and dark.

mod axis;
mod bars;
mod dots;
mod heat;
mod line;
mod rates;
mod svg;

pub use self::axis::Format;
pub use self::bars::BarChart;
pub use self::dots::{Dot, DotChart, DotRow};
pub use self::heat::HeatMap;
pub use self::line::{LineChart, Point, Series};
pub use self::rates::{Rate, RateChart, RateRow};

/// Width of every chart, in the units of its text.
const WIDTH: f64 = 430.0;

/// What a colour stands for. Shapes and labels say the same, so that nobody depends on colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// True demonstrations, and what goes well.
    True,
    /// False demonstrations, and errors.
    False,
    /// A third thing.
    Third,
    /// A fourth thing.
    Fourth,
    /// What the others are compared with.
    Muted,
}

impl Tone {
    /// Colours of series without a meaning of their own.
    pub const SERIES: [Self; 4] = [Self::True, Self::False, Self::Third, Self::Fourth];

    fn class(self) -> &'static str {
        match self {
            Self::True => "t1",
            Self::False => "t2",
            Self::Third => "t3",
            Self::Fourth => "t4",
            Self::Muted => "t0",
        }
    }
}
