//! Charts as SVG text: panels side by side, each with a few lines.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Values along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps are equal differences.
    Linear,
    /// The same for counts: only whole numbers are labelled.
    Whole,
    /// Equal steps are equal factors; all values are above 0.
    Log2,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear | Self::Whole => value,
            Self::Log2 => value.log2(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Whole if (place - place.round()).abs() > 1e-6 => String::new(),
            Self::Linear | Self::Whole => short(place),
            Self::Log2 if place > 3.0 => format!("{:.0}", place.exp2()),
            Self::Log2 => {
                let value = place.exp2();
                // At least two significant digits: 0.016.
                let digits = (1.0 - value.log10().floor()).max(2.0) as usize;
                short(format!("{value:.digits$}").parse().unwrap_or(value))
            }
        }
    }
}

/// At most three decimal places, without trailing zeros.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// One line of a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its label.
    pub name: String,
    /// Its points, left to right.
    pub points: Vec<[f64; 2]>,
    /// Drawn thin and without marks: expected, not measured.
    pub faint: bool,
}

/// One chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Its title, above it.
    pub title: String,
    /// Label and scale of the horizontal axis.
    pub x: (String, Scale),
    /// Label and scale of the vertical axis.
    pub y: (String, Scale),
    /// Its lines; lines at the same position in different panels have the same colour.
    pub lines: Vec<Line>,
}

/// Size of a panel in pixels, alone and among others.
const ALONE: (u32, u32) = (700, 360);
const PANEL: (u32, u32) = (330, 270);
/// Height of a row of names.
const LEGEND: u32 = 24;
/// Okabe and Ito's colours, which most colour-blind people can tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const FONT: &str = "sans-serif";

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Draws panels in rows of `columns`; the names of the first panel's lines, if any, are above them.
///
/// # Panics
/// If there are no panels or no columns.
///
/// # Examples
/// ```
/// use shadernet::plot::{Line, Panel, Scale, svg};
///
/// let line = Line { name: "seed 0".into(), points: vec![[1.0, 97.1], [2.0, 98.6], [3.0, 98.9]], faint: false };
/// let panel = Panel {
///     title: "Test accuracy".into(),
///     x: ("epoch".into(), Scale::Whole),
///     y: ("%".into(), Scale::Linear),
///     lines: vec![line],
/// };
/// assert!(svg(&[panel], 1).starts_with("<svg "));
/// ```
pub fn svg(panels: &[Panel], columns: usize) -> String {
    assert!(!panels.is_empty() && columns > 0, "nothing to draw");
    panels_of(panels, columns, if panels.len() == 1 { ALONE } else { PANEL })
}

/// Draws one panel of this size in pixels, with the names of its lines above it.
pub fn chart(panel: &Panel, size: (u32, u32)) -> String {
    panels_of(std::slice::from_ref(panel), 1, size)
}

fn panels_of(panels: &[Panel], columns: usize, panel: (u32, u32)) -> String {
    let columns = columns.min(panels.len());
    let rows = panels.len().div_ceil(columns);
    let width = panel.0 * columns as u32;
    let named = panels[0].lines.iter().any(|line| !line.name.is_empty());
    let names = if named { legend(&panels[0].lines, width) } else { Vec::new() };
    let height = names.last().map_or(0, |&(row, _)| LEGEND * (row + 1));
    let size = (width, panel.1 * rows as u32 + height);
    let mut text = String::new();
    draw(&SVGBackend::with_string(&mut text, size).into_drawing_area(), panels, [rows, columns], &names)
        .expect("a string takes all that is drawn");
    text
}

/// Row and left edge of each line's name: as many per row as fit.
fn legend(lines: &[Line], width: u32) -> Vec<(u32, u32)> {
    let (mut row, mut left) = (0, 12);
    let mut places = Vec::new();
    for line in lines {
        let needed = 50 + 7 * line.name.chars().count() as u32;
        if left > 12 && left + needed > width {
            (row, left) = (row + 1, 12);
        }
        places.push((row, left));
        left += needed;
    }
    places
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(root: &Area<'_>, panels: &[Panel], [rows, columns]: [usize; 2], names: &[(u32, u32)]) -> Drawn {
    root.fill(&WHITE)?;
    let (legend, body) = root.split_vertically(names.last().map_or(0, |&(row, _)| LEGEND * (row + 1)));
    for (index, (line, &(row, left))) in panels[0].lines.iter().zip(names).enumerate() {
        let (left, middle) = (left as i32, (LEGEND * row + LEGEND / 2 + 2) as i32);
        let style = colour(index).stroke_width(if line.faint { 1 } else { 3 });
        legend.draw(&PathElement::new([(left, middle), (left + 22, middle)], style))?;
        let anchor = Pos::new(HPos::Left, VPos::Center);
        let label = (FONT, 13).into_font().color(&BLACK).pos(anchor);
        legend.draw(&Text::new(line.name.clone(), (left + 28, middle), label))?;
    }
    for (panel, area) in panels.iter().zip(body.split_evenly((rows, columns))) {
        draw_panel(&area, panel)?;
    }
    root.present()?;
    Ok(())
}

/// The range of values with a margin of a twentieth on either side.
fn range(values: impl Iterator<Item = f64> + Clone) -> std::ops::Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(f64::NEG_INFINITY, f64::max);
    if !(low.is_finite() && high.is_finite()) {
        return 0.0..1.0;
    }
    let margin = if high > low { 0.05 * (high - low) } else { 0.5 };
    low - margin..high + margin
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Drawn {
    let ((x_name, x), (y_name, y)) = (&panel.x, &panel.y);
    let place = |&[a, b]: &[f64; 2]| (x.place(a), y.place(b));
    let points = || panel.lines.iter().flat_map(|line| &line.points).map(place);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 15))
        .margin(8)
        .x_label_area_size(38)
        .y_label_area_size(52)
        .build_cartesian_2d(range(points().map(|(x, _)| x)), range(points().map(|(_, y)| y)))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|at| x.label(*at))
        .y_label_formatter(&|at| y.label(*at))
        .x_desc(x_name)
        .y_desc(y_name)
        .label_style((FONT, 12))
        .draw()?;
    for (index, line) in panel.lines.iter().enumerate() {
        let style = colour(index).stroke_width(if line.faint { 1 } else { 2 });
        chart.draw_series(LineSeries::new(line.points.iter().map(place), style))?;
        if !line.faint {
            let dots = line.points.iter().map(|point| Circle::new(place(point), 3, colour(index).filled()));
            chart.draw_series(dots)?;
        }
    }
    Ok(())
}

/// Values with one name, for [`strips`].
#[derive(Debug, Clone, PartialEq)]
pub struct Strip {
    /// What they are values of.
    pub name: String,
    /// The values.
    pub values: Vec<f64>,
}

const STRIP_HEIGHT: u32 = 26;
const NAMES: u32 = 230;

/// Draws one strip below the other: every value as a dot, their mean as a bar, and a line at `target`, if given.
///
/// # Panics
/// If there are no strips.
pub fn strips(strips: &[Strip], axis: &str, target: Option<f64>) -> String {
    assert!(!strips.is_empty(), "nothing to draw");
    let size = (760, STRIP_HEIGHT * strips.len() as u32 + 60);
    let mut text = String::new();
    draw_strips(&SVGBackend::with_string(&mut text, size).into_drawing_area(), strips, axis, target)
        .expect("a string takes all that is drawn");
    text
}

fn draw_strips(root: &Area<'_>, strips: &[Strip], axis: &str, target: Option<f64>) -> Drawn {
    root.fill(&WHITE)?;
    let values = || strips.iter().flat_map(|strip| strip.values.iter().copied());
    let top = |index: usize| strips.len() as f64 - index as f64;
    let mut chart = ChartBuilder::on(root)
        .margin(8)
        .x_label_area_size(38)
        .y_label_area_size(NAMES)
        .build_cartesian_2d(range(values().chain(target)), 0.0..strips.len() as f64)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|at| short(*at))
        .x_desc(axis)
        .label_style((FONT, 12))
        .draw()?;
    if let Some(target) = target {
        let line = [(target, 0.0), (target, strips.len() as f64)];
        chart.draw_series(LineSeries::new(line, colour(1).stroke_width(1)))?;
    }
    for (index, strip) in strips.iter().enumerate() {
        let middle = top(index) - 0.5;
        let dots =
            strip.values.iter().map(|&value| Circle::new((value, middle), 3, colour(0).mix(0.5).filled()));
        chart.draw_series(dots)?;
        if !strip.values.is_empty() {
            let mean = strip.values.iter().sum::<f64>() / strip.values.len() as f64;
            let bar = [(mean, middle - 0.35), (mean, middle + 0.35)];
            chart.draw_series(LineSeries::new(bar, BLACK.stroke_width(2)))?;
        }
        let anchor = Pos::new(HPos::Right, VPos::Center);
        let label = (FONT, 12).into_font().color(&BLACK).pos(anchor);
        let at = (NAMES as i32, (8 + STRIP_HEIGHT * index as u32 + STRIP_HEIGHT / 2) as i32);
        root.draw(&Text::new(strip.name.clone(), at, label))?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(y: Scale, values: [f64; 3]) -> Panel {
        let points = values.iter().zip([1.0, 2.0, 4.0]).map(|(&y, x)| [x, y]).collect();
        Panel {
            title: "cost <&>".into(),
            x: ("nets".into(), Scale::Log2),
            y: ("time".into(), y),
            lines: vec![Line { name: "measured".into(), points, faint: false }],
        }
    }

    #[test]
    fn a_chart_is_one_svg_with_every_point_and_name() {
        let text = svg(&[panel(Scale::Log2, [1.0, 3.0, 9.0]), panel(Scale::Linear, [5.0, 5.0, 5.0])], 2);
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert_eq!(text.matches("<circle").count(), 6);
        for word in ["measured", "nets", "time", "cost &lt;&amp;&gt;"] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn equal_factors_are_equal_distances() {
        let text = svg(&[panel(Scale::Log2, [2.0, 8.0, 32.0])], 1);
        let height = |circle: &str| -> f64 {
            let rest = &circle[circle.find("cy=\"").unwrap() + 4..];
            rest[..rest.find('"').unwrap()].parse().unwrap()
        };
        let heights: Vec<f64> = text.split("<circle").skip(1).map(height).collect();
        let [low, middle, high] = heights[..] else { panic!("{heights:?}") };
        assert!(low > middle && ((low - middle) - (middle - high)).abs() <= 1.0, "{heights:?}");
    }

    #[test]
    fn every_name_has_room() {
        let line = |name: &str| Line { name: name.into(), points: vec![[1.0, 1.0]], faint: false };
        let lines: Vec<Line> = ["a name of some length", "another name, longer still", "c"].map(line).into();
        assert_eq!(legend(&lines, 330), [(0, 12), (1, 12), (1, 12 + 50 + 7 * 26)]);
        assert_eq!(legend(&lines, 40), [(0, 12), (1, 12), (2, 12)]);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(["0.125", "3", "-0.5", "0"].map(String::from), [0.125, 3.0, -0.5, -0.0].map(short));
        assert_eq!([3.0, 5.5, -1.0, 0.2].map(|place| Scale::Log2.label(place)), ["8", "45", "0.5", "1.15"]);
        assert_eq!([-6.0, -10.0].map(|place| Scale::Log2.label(place)), ["0.016", "0.001"]);
        assert_eq!([1.0, 1.5].map(|place| Scale::Whole.label(place)), ["1", ""]);
    }
}
