//! `dateline mirror`: keeps a second store in step with a first one, through restarts and cuts of either.
//!
//! Changes of the source become items of one ingest stream of the target, whose bookmark is the place in the source's change log
//! after them. Items and bookmark become durable together, so wherever a mirror ends, the next one goes on exactly there. It keeps
//! nothing itself.

mod account;

use std::collections::VecDeque;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use self::account::{Account, interruption, print};
use super::CommandError;
use crate::client::v1::watch_articles_request::Start;
use crate::client::{Client, ClientError, IngestEvent, IngestReceiver, IngestSender, Watch, WatchEvent, v1};
use crate::shutdown;

/// Messages that the target has not acknowledged, at most: the source is not read further then.
const MESSAGES_ON_THE_WAY: usize = 16;
/// A target that acknowledges nothing for so long, or opens no stream, is as good as gone.
const SILENCE: Duration = Duration::from_secs(120);
/// While there is nothing to do, the stream's position is renewed so often, so that the target does not forget it.
const RENEW_EVERY: Duration = Duration::from_secs(600);
/// How often the source is asked how far it is, and progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long to wait before the first attempt to come back; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Keeps a second store in step with a first one, until it is stopped.
///
/// The target gets every article of the source with all fields, every later change, and every deletion, those of one article in
/// the order of the source. It numbers revisions and changes itself. Other articles that it holds are left alone.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline mirror --from http://10.0.0.1:50051 --to http://127.0.0.1:50051\n  dateline mirror --from http://127.0.0.1:50051 --to http://127.0.0.1:50052 --until-caught-up --json\n\nEither server may be away for a while. Where a mirror stopped, it goes on when it is started again: the target knows the place. A target that is not mirrored to for longer than\nits --stream-expiry-seconds (7 days) forgets it; then everything is sent again, and what is the same changes nothing."
)]
pub struct MirrorArgs {
    /// The server to copy
    #[arg(long, value_name = "ADDR")]
    from: String,
    /// The server to keep in step
    #[arg(long, value_name = "ADDR")]
    to: String,
    /// The ingest stream of the target that keeps the place; one mirror at a time has it [default: mirror- and the source's store id]
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// End when the target has everything that the source held when the command began
    #[arg(long)]
    until_caught_up: bool,
    /// Print JSON objects, one a line
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: MirrorArgs) -> Result<(), CommandError> {
    let stop = shutdown::on_signals().map_err(|error| CommandError::Failed(format!("signals cannot be listened for: {error}")))?;
    let connected = tokio::select! {
        connected = connect(&args) => connected?,
        () = stop.cancelled() => return Ok(()),
    };
    let ((source, source_status), (target, target_status)) = connected;
    let store_id = source_status.store_id;
    if store_id == target_status.store_id {
        return Err(CommandError::Usage("--from and --to are the same store: name two".into()));
    }
    let latest = source_status.contents.unwrap_or_default().last_sequence;
    let stream = args.stream.unwrap_or_else(|| format!("mirror-{store_id}"));
    let goal = args.until_caught_up.then_some(latest);
    let account = Account::new(&stream, latest, args.json);
    let mut mirror = Mirror { source, target, stream, goal, account, pause: FIRST_PAUSE };
    let asking = mirror.account.ask(mirror.source.clone());
    let ended = tokio::select! {
        ended = mirror.keep_in_step() => ended,
        () = stop.cancelled() => Ok(()),
    };
    asking.abort();
    ended?;
    mirror.account.end()
}

/// Waits until both sides are there.
async fn connect(args: &MirrorArgs) -> Result<(Side, Side), CommandError> {
    Ok((connect_to("source", &args.from, args.json).await?, connect_to("target", &args.to, args.json).await?))
}

/// A server, and what it said of itself.
type Side = (Client, v1::GetStatusResponse);

async fn connect_to(side: &str, address: &str, json: bool) -> Result<Side, CommandError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = async {
            let client = Client::connect(address).await?;
            let status = client.status().await?;
            Ok::<_, ClientError>((client, status))
        };
        match timeout(SILENCE, asked).await.unwrap_or_else(|_| Err(silence())) {
            Err(error) if error.is_passing() => {
                if pause == FIRST_PAUSE {
                    let (text, object) = interruption(side, &error);
                    if json { print(&object)? } else { eprintln!("dateline: {text}") }
                }
            }
            asked => return Ok(asked?),
        }
        sleep(pause).await; // ok: a server that is down or starts is not asked all the time.
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

struct Mirror {
    source: Client,
    target: Client,
    stream: String,
    /// The change of the source at which to end.
    goal: Option<i64>,
    account: Account,
    pause: Duration,
}

/// Why a connection of both sides ended.
enum End {
    /// Trying again may help.
    Passing { side: &'static str, error: ClientError },
    /// It would not.
    Final(CommandError),
}

impl From<CommandError> for End {
    fn from(error: CommandError) -> Self {
        Self::Final(error)
    }
}

/// Both sides, connected.
struct Session {
    watch: Watch,
    sender: IngestSender,
    receiver: IngestReceiver,
    place: Place,
}

/// How far both sides are.
struct Place {
    next_item: i64,
    /// The place in the source up to which everything was sent.
    token: String,
    /// Whether the target was told of it.
    noted: bool,
    /// For each message on its way, the item after its last and the change that it goes up to.
    messages: VecDeque<(i64, i64)>,
    /// The articles that are on their way, by their item numbers.
    items: VecDeque<(i64, v1::ArticleKey)>,
    last_sent: Instant,
    last_heard: Instant,
}

impl Mirror {
    /// Runs until the goal is reached, or for ever.
    async fn keep_in_step(&mut self) -> Result<(), CommandError> {
        loop {
            match self.session().await {
                Ok(()) => return Ok(()),
                Err(End::Final(error)) => return Err(error),
                Err(End::Passing { side, error }) => self.account.interruption(side, &error)?,
            }
            sleep(self.pause).await; // ok: a server that is down or starts is not asked all the time.
            self.pause = LONGEST_PAUSE.min(self.pause * 2);
        }
    }

    /// Runs until the goal is reached, or something breaks.
    async fn session(&mut self) -> Result<(), End> {
        let Session { watch, mut sender, mut receiver, mut place } = self.begin().await?;
        let mut events = follow(watch);
        let mut ticks = interval(TELL_EVERY);
        ticks.tick().await;
        let mut begun = false;
        loop {
            if begun && self.goal.is_some_and(|goal| self.account.sequence >= goal) {
                return Ok(());
            }
            let waiting = !place.messages.is_empty();
            tokio::select! {
                event = events.recv(), if place.messages.len() < MESSAGES_ON_THE_WAY => match event.unwrap_or_else(|| Err(silence())) {
                    Ok(WatchEvent::Changes(message)) => {
                        if !begun {
                            // The mark of the place from which it goes on.
                            (begun, self.account.sequence) = (true, message.last_sequence);
                        }
                        let message = self.items_of(&mut place, message);
                        self.pass(&mut sender, &mut receiver, &mut place, message).await?;
                    }
                    Ok(WatchEvent::Interrupted(error)) => self.account.interruption("source", &error)?,
                    Err(error) => return Err(self.end_of_source(error)),
                },
                event = receiver.next() => self.acknowledged(&mut place, event)?,
                () = sleep_until(place.last_heard + SILENCE), if waiting => return Err(silent()), // ok: the time of a target that is gone.
                () = sleep_until(place.last_sent + RENEW_EVERY) => { // ok: the time of a renewal.
                    let renewal = v1::IngestItems { first_item: place.next_item, bookmark: Some(place.token.clone().into()), ..Default::default() };
                    place.messages.push_back((place.next_item, self.account.sequence));
                    self.pass(&mut sender, &mut receiver, &mut place, Some(renewal)).await?;
                }
                _ = ticks.tick() => self.account.progress()?,
            }
        }
    }

    /// Opens the target's stream, and the watch that goes on after its bookmark.
    async fn begin(&mut self) -> Result<Session, End> {
        let open = v1::IngestOpen { stream_id: self.stream.clone(), report_all_outcomes: false, accept_future_dates: true };
        let opened = timeout(SILENCE, self.target.open_ingest(open)).await.map_err(|_| silent())?;
        let (sender, receiver, opened) = opened.map_err(|error| self.end_of_target(error))?;
        let token = match String::from_utf8(opened.bookmark) {
            Ok(token) if opened.next_item == 0 || !token.is_empty() => token,
            Ok(_) | Err(_) => return Err(self.no_mirror()),
        };
        let start = match token.as_str() {
            "" => Start::Position(v1::WatchStart::Beginning.into()),
            token => Start::ResumeToken(token.to_owned()),
        };
        let request = v1::WatchArticlesRequest { start: Some(start), include_articles: true, ..Default::default() };
        let watch = self.source.watch(request).await.map_err(|error| self.end_of_source(error))?;
        self.account.connected(opened.counts.map_or(0, |counts| counts.rejected))?;
        let (next_item, noted, now) = (opened.next_item, !token.is_empty(), Instant::now());
        let (messages, items) = (VecDeque::new(), VecDeque::new());
        let place = Place { next_item, token, noted, messages, items, last_sent: now, last_heard: now };
        Ok(Session { watch, sender, receiver, place })
    }

    /// The changes of a message as items, with the place after them as the bookmark; nothing where the target knows it all.
    fn items_of(&mut self, place: &mut Place, message: v1::WatchArticlesResponse) -> Option<v1::IngestItems> {
        use v1::ingest_item::Item;
        place.noted &= place.token == message.resume_token;
        place.token = message.resume_token;
        if place.noted {
            return None;
        }
        place.noted = true;
        let first_item = place.next_item;
        let mut items = Vec::with_capacity(message.changes.len());
        for change in message.changes {
            self.account.changes += 1;
            let key = change.key.clone().unwrap_or_default();
            let item = match (change.r#type(), change.article) {
                (v1::ChangeType::Deleted, _) => Item::Delete(key.clone()),
                (_, Some(article)) => Item::Article(article),
                (_, None) => {
                    // This revision is not kept any more, so there is a later change of the same article.
                    self.account.skipped += 1;
                    continue;
                }
            };
            place.items.push_back((place.next_item, key));
            place.next_item += 1;
            items.push(v1::IngestItem { item: Some(item) });
        }
        place.messages.push_back((place.next_item, message.last_sequence));
        Some(v1::IngestItems { first_item, items, bookmark: Some(place.token.clone().into()), ..Default::default() })
    }

    /// Sends a message, while acknowledgements come in: they make room for it.
    async fn pass(
        &mut self,
        sender: &mut IngestSender,
        receiver: &mut IngestReceiver,
        place: &mut Place,
        message: Option<v1::IngestItems>,
    ) -> Result<(), End> {
        let Some(message) = message else { return Ok(()) };
        place.last_sent = Instant::now();
        if place.messages.len() == 1 {
            place.last_heard = place.last_sent;
        }
        let sending = timeout(SILENCE, sender.send_items(message));
        tokio::pin!(sending);
        loop {
            tokio::select! {
                sent = &mut sending => match sent {
                    Ok(Ok(())) => return Ok(()),
                    Err(_) => return Err(silent()),
                    // The receiving side knows why.
                    Ok(Err(_)) => break,
                },
                event = receiver.next() => self.acknowledged(place, event)?,
            }
        }
        loop {
            let event = timeout(SILENCE, receiver.next()).await.map_err(|_| silent())?;
            self.acknowledged(place, event)?;
        }
    }

    fn acknowledged(&mut self, place: &mut Place, event: Result<Option<IngestEvent>, ClientError>) -> Result<(), End> {
        let ack = match event {
            Ok(Some(IngestEvent::Ack(ack))) => ack,
            Ok(Some(IngestEvent::Committed(_)) | None) => {
                let error = ClientError { reason: "CUT_OFF".into(), message: "the target ended the ingest stream".into() };
                return Err(End::Passing { side: "target", error });
            }
            Err(error) => return Err(self.end_of_target(error)),
        };
        place.last_heard = Instant::now();
        // Whatever was wrong is over.
        self.pause = FIRST_PAUSE;
        let mut outcomes = ack.outcomes.into_iter().peekable();
        while let Some((item, key)) = pop_before(&mut place.items, ack.next_item) {
            self.account.outcome(&key, outcomes.next_if(|outcome| outcome.item == item))?;
        }
        while let Some((_, sequence)) = pop_before(&mut place.messages, ack.next_item + 1) {
            self.account.sequence = sequence;
        }
        self.account.show();
        Ok(())
    }

    fn end_of_source(&self, error: ClientError) -> End {
        let stream = &self.stream;
        let advice = match error.reason.as_str() {
            _ if error.is_passing() => return End::Passing { side: "source", error },
            "CHANGES_TRIMMED" => {
                "the source no longer keeps the changes after the place where this mirror stopped: begin again with an empty target"
            }
            "TOKEN_MISMATCH" => {
                "the source is another store than the one that was mirrored, such as a restored one: begin again with an empty target, or \
                 with another --stream where what was deleted at the source meanwhile may stay"
            }
            "INVALID_TOKEN" => return self.no_mirror(),
            "RECORD_DAMAGED" => "the next article is damaged at the source: delete it there, or store it again, and start the mirror again",
            _ => "the source does not let itself be watched",
        };
        End::Final(CommandError::Failed(format!("{advice}: {error}; the place is kept in the ingest stream {stream} of the target")))
    }

    fn end_of_target(&self, error: ClientError) -> End {
        let stream = &self.stream;
        let advice = match error.reason.as_str() {
            _ if error.is_passing() => return End::Passing { side: "target", error },
            "STREAM_TAKEN_OVER" => "another mirror goes on with it: run one, or give each a --stream of its own".to_owned(),
            "STREAM_FINISHED" => "it was ended for good: choose another name with --stream".to_owned(),
            _ => "the target does not take it".to_owned(),
        };
        End::Final(CommandError::Failed(format!("the ingest stream {stream} of the target: {advice}: {error}")))
    }

    fn no_mirror(&self) -> End {
        let stream = &self.stream;
        let text = format!("the ingest stream {stream} of the target is no mirror's: choose another name with --stream");
        End::Final(CommandError::Failed(text))
    }
}

/// The events of a watch, followed by a task of its own: it waits before it comes back, longer than anything here leaves it alone.
fn follow(mut watch: Watch) -> mpsc::Receiver<Result<WatchEvent, ClientError>> {
    let (sender, events) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                () = sender.closed() => return,
                event = watch.next() => event,
            };
            let last = event.is_err();
            if sender.send(event).await.is_err() || last {
                return;
            }
        }
    });
    events
}

/// Takes the first off whose number lies below.
fn pop_before<T>(queue: &mut VecDeque<(i64, T)>, number: i64) -> Option<(i64, T)> {
    if queue.front()?.0 < number { queue.pop_front() } else { None }
}

fn silence() -> ClientError {
    ClientError { reason: "CUT_OFF".into(), message: "it was silent for too long".into() }
}

fn silent() -> End {
    End::Passing { side: "target", error: silence() }
}
