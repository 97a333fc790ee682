use opb_common::outcome::Direction;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    widgets::{Paragraph, Row, Table},
};

use super::{
    client::{Control, with_query},
    failure::{self, Failure},
    output::{Format, Output},
};
use opb_userspace::api::{
    bypass::BypassLine, events::TalkerLine, events::TalkersQuery, status::Status,
};

/// Rows to request for the live view, which sorts them.
const ROWS: usize = 1000;
const REFRESH: Duration = Duration::from_secs(1);

/// Show the subscribers with the most denied packets
///
/// On a terminal this is a live view. With --once or --json it prints a list and ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  opb top --once --limit 5")]
pub(crate) struct Top {
    /// Print a table and end
    #[arg(long)]
    once: bool,

    /// Show only subscribers of this group
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Maximum number of rows to print
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,

    #[command(flatten)]
    control: Control,

    #[command(flatten)]
    format: Format,
}

impl Top {
    pub(crate) fn execute(self) -> Result<(), Failure> {
        // Programs read JSON and have no screen.
        if self.once || self.format.json {
            return self.print();
        }
        let first = ask(&self.control, self.group.as_deref(), ROWS)?;
        let mut view = View::new(first, self.group.clone());
        view.bypasses = bypasses(&self.control)?;
        let terminal = ratatui::try_init().map_err(|error| {
            Failure::new("standard output is not a terminal")
                .caused_by(Some(&error))
                .hint("`opb top --once` prints a table")
        })?;
        let result = self.run(terminal, &mut view);
        ratatui::restore();
        result
    }

    fn print(&self) -> Result<(), Failure> {
        failure::warn(bypasses(&self.control)?);
        let rows = ask(&self.control, self.group.as_deref(), self.limit)?;
        let mut output = Output::new();
        if self.format.json {
            rows.iter().try_for_each(|row| output.json(row))?;
        } else if rows.is_empty() {
            output.line("no packets have been denied")?;
        } else {
            output.table(HEADER, rows.iter().map(cells))?;
        }
        output.finish()
    }

    fn run(&self, mut terminal: DefaultTerminal, view: &mut View) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::new("the terminal failed").caused_by(Some(&error));
        let mut asked = Instant::now();
        loop {
            terminal.draw(|frame| view.draw(frame)).map_err(failed)?;
            let left = REFRESH.saturating_sub(asked.elapsed());
            if event::poll(left).map_err(failed)? {
                if let Event::Key(key) = event::read().map_err(failed)?
                    && key.kind == KeyEventKind::Press
                {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    if view.press(key.code, control) {
                        return Ok(());
                    }
                }
            } else {
                asked = Instant::now();
                if !view.paused {
                    view.rows = ask(&self.control, view.group.as_deref(), ROWS)?;
                    view.bypasses = bypasses(&self.control)?;
                    view.now = Timestamp::now();
                }
            }
        }
    }
}

fn ask(control: &Control, group: Option<&str>, limit: usize) -> Result<Vec<TalkerLine>, Failure> {
    let query = TalkersQuery { group: group.map(str::to_owned), limit: Some(limit) };
    control.get(&with_query("/v1/talkers", &query)?)
}

fn bypasses(control: &Control) -> Result<Vec<BypassLine>, Failure> {
    // The status never waits, not even for a kernel thread that hangs.
    Ok(control.get::<Status>("/v1/status")?.bypasses)
}

const HEADER: [&str; 7] =
    ["subscriber", "group", "direction", "packets", "a second", "peers", "last"];

fn cells(row: &TalkerLine) -> [String; 7] {
    let last = row.last.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let [subscriber, group, direction] =
        [&row.subscriber, &row.group, row.direction.name()].map(str::to_owned);
    let [packets, rate, peers] = numbers(row);
    [subscriber, group, direction, packets, rate, peers, last]
}

/// Returns packets, packets per second and peers.
fn numbers(row: &TalkerLine) -> [String; 3] {
    let peers = if row.peers >= 266 { "266+".to_owned() } else { row.peers.to_string() };
    [row.packets.to_string(), format!("{:.1}", row.rate), peers]
}

/// Returns an age in seconds, minutes, hours or days, in four characters.
fn age(of: Timestamp, now: Timestamp) -> String {
    let seconds = (now - of).get_seconds().max(0);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The column to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Packets,
    Rate,
    Peers,
    Last,
    Subscriber,
}

/// The live view.
struct View {
    rows: Vec<TalkerLine>,
    /// Active emergency bypasses: nothing is denied there.
    bypasses: Vec<BypassLine>,
    /// When the rows were fetched.
    now: Timestamp,
    order: Order,
    paused: bool,
    group: Option<String>,
    /// The group name being typed.
    typing: Option<String>,
    first: usize,
}

impl View {
    fn new(rows: Vec<TalkerLine>, group: Option<String>) -> Self {
        let now = Timestamp::now();
        Self {
            rows,
            now,
            order: Order::Packets,
            bypasses: Vec::new(),
            paused: false,
            group,
            typing: None,
            first: 0,
        }
    }

    /// Handles a key. Returns whether it ends the view.
    fn press(&mut self, key: KeyCode, control: bool) -> bool {
        if control && key == KeyCode::Char('c') {
            return true;
        }
        if let Some(text) = &mut self.typing {
            match key {
                KeyCode::Char(letter) => text.push(letter),
                KeyCode::Backspace => drop(text.pop()),
                KeyCode::Esc => self.typing = None,
                KeyCode::Enter => {
                    self.group = self.typing.take().filter(|text| !text.is_empty());
                    self.first = 0;
                }
                _ => {}
            }
            return false;
        }
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('p') => self.order = Order::Packets,
            KeyCode::Char('r') => self.order = Order::Rate,
            KeyCode::Char('d') => self.order = Order::Peers,
            KeyCode::Char('l') => self.order = Order::Last,
            KeyCode::Char('s') => self.order = Order::Subscriber,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('g') => self.typing = Some(String::new()),
            KeyCode::Down => self.first = (self.first + 1).min(self.rows.len().saturating_sub(1)),
            KeyCode::Up => self.first = self.first.saturating_sub(1),
            _ => {}
        }
        false
    }

    fn sorted(&self) -> Vec<&TalkerLine> {
        // While paused, the rows may still be of another group.
        let mut rows: Vec<_> = (self.rows.iter())
            .filter(|row| self.group.as_ref().is_none_or(|group| *group == row.group))
            .collect();
        rows.sort_by(|a, b| match self.order {
            Order::Packets => b.packets.cmp(&a.packets),
            Order::Rate => b.rate.total_cmp(&a.rate),
            Order::Peers => b.peers.cmp(&a.peers),
            Order::Last => b.last.cmp(&a.last),
            Order::Subscriber => a.subscriber.cmp(&b.subscriber),
        });
        rows
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(2), Constraint::Length(1)])
                .areas(frame.area());
        let rows = self.sorted();
        let group = self.group.as_deref().unwrap_or("all");
        let paused = if self.paused { "  PAUSED" } else { "" };
        let by = format!("{:?}", self.order).to_lowercase();
        let title =
            format!("opb top: {} denied subscribers, group {group}, by {by}{paused}", rows.len());
        let (title, style) = match &self.bypasses[..] {
            [] => (title, Modifier::BOLD),
            // Instead of the title: nothing else matters as much.
            all => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                (all.join("; "), Modifier::BOLD | Modifier::REVERSED)
            }
        };
        frame.render_widget(Paragraph::new(title).style(Style::new().add_modifier(style)), head);
        // An address must not be cut: a long group name is cut instead.
        let longest = rows.iter().map(|row| row.subscriber.len()).max().unwrap_or(0);
        let widths = [
            Constraint::Length(longest.clamp(10, 39) as u16),
            Constraint::Min(4),
            Constraint::Length(4),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(5),
            Constraint::Length(4),
        ];
        let lines = rows.iter().skip(self.first).map(|row| {
            let [packets, rate, peers] = numbers(row);
            let way = if row.direction == Direction::Downstream { "down" } else { "up" }.to_owned();
            let (subscriber, group) = (row.subscriber.clone(), row.group.clone());
            Row::new([subscriber, group, way, packets, rate, peers, age(row.last, self.now)])
        });
        let header = ["SUBSCRIBER", "GROUP", "WAY", "PACKETS", "A SECOND", "PEERS", "LAST"];
        let header = Row::new(header).style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_widget(Table::new(lines, widths).header(header).column_spacing(1), body);
        let keys = match &self.typing {
            Some(text) => format!("group: {text}_   (Enter: show it, empty: all, Esc: cancel)"),
            None => "sort p r d l s: packets rate peers last subscriber  g group  space pause  q"
                .to_owned(),
        };
        frame.render_widget(Paragraph::new(keys), foot);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use opb_common::outcome::{Reason, Verdict};
    use opb_userspace::api::entries::Who;

    use super::*;

    fn row(subscriber: &str, group: &str, packets: u64, rate: f64) -> TalkerLine {
        TalkerLine {
            subscriber: subscriber.to_owned(),
            direction: Direction::Upstream,
            group: group.to_owned(),
            verdict: Verdict::Drop,
            reason: Reason::Policy,
            packets,
            rate,
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
            peers: 300,
        }
    }

    fn view() -> View {
        let rows = vec![row("203.0.113.1", "a", 9, 0.5), row("2001:db8::1", "b", 4, 7.0)];
        let now = Timestamp::from_second(90 * 60).expect("a time");
        View { now, ..View::new(rows, None) }
    }

    fn screen(view: &View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
        terminal.draw(|frame| view.draw(frame)).expect("draws");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..24).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn fits_80_by_24() {
        let screen = screen(&view());
        assert_eq!(screen[0], "opb top: 2 denied subscribers, group all, by packets");
        assert!(screen[1].starts_with("SUBSCRIBER") && screen[1].contains("LAST"), "{}", screen[1]);
        assert!(
            screen[2].starts_with("203.0.113.1 ") && screen[2].ends_with(" 90m"),
            "{}",
            screen[2]
        );
        assert!(screen[2].contains("266+"));
        assert!(screen[23].ends_with("pause  q"), "{}", screen[23]);
    }

    #[test]
    fn a_bypass_takes_the_place_of_the_title() {
        let mut view = view();
        view.bypasses.push(BypassLine {
            group: Some("a".to_owned()),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
            by: Who { uid: 0, pid: None, user: None },
            reason: "storm".to_owned(),
        });
        let first = screen(&view)[0].clone();
        assert!(first.starts_with("BYPASS of group a: nothing is denied until 1970-"), "{first}");
    }

    #[test]
    fn the_longest_address_is_whole() {
        let longest = "2001:db8:1000:1000:1000:1000:1000:1000";
        let screen = screen(&View::new(vec![row(longest, "dynamic", 99_999_999, 99_999.9)], None));
        let words: Vec<_> = screen[2].split_whitespace().collect();
        assert_eq!(words[..2], [longest, "dynam"], "{}", screen[2]);
        assert_eq!(words[2..6], ["up", "99999999", "99999.9", "266+"], "{}", screen[2]);
    }

    #[test]
    fn sorts_filters_and_pauses() {
        let mut view = view();
        assert!(!view.press(KeyCode::Char('r'), false));
        assert!(screen(&view)[2].starts_with("2001:db8::1"));
        for key in [KeyCode::Char('g'), KeyCode::Char('a'), KeyCode::Enter] {
            assert!(!view.press(key, false));
        }
        let shown = screen(&view);
        assert!(
            shown[0].contains("1 denied subscribers, group a")
                && shown[2].starts_with("203.0.113.1")
        );
        view.press(KeyCode::Char(' '), false);
        assert!(screen(&view)[0].ends_with("PAUSED"));
        assert!(view.press(KeyCode::Char('q'), false));
        assert!(view.press(KeyCode::Char('c'), true));
    }
}
