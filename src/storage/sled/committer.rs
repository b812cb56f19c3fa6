//! The committer: the one thread that writes.
//!
//! It takes what all connections have submitted meanwhile as one group, decides it, makes it durable in the journal, applies
//! it to the trees, and only then lets readers and writers know. One sync serves the whole group, so groups grow by
//! themselves under load, and a single write on an idle store waits for nobody.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::CheckpointRequest;
use super::entry::State;
use super::group::{Decided, Group, PreparedWrite, Relocation, TrimStep};
use super::journal::{Frame, Journal, Mutation};
use super::shared::Shared;
use super::supervision::panic_text;
use super::synced::SyncedNote;
use super::trees::Trees;
use crate::article::Timestamp;
use crate::storage::compression::Dictionary;
use crate::storage::planted::{Fault, planted};
use crate::storage::{BatchOutcome, Durability, IngestStreamId, OpenedStream, StoreError, StoreOptions, StreamAdvance, StreamState};

/// Writes in a group at most. Bounds how long a single write waits behind others.
const GROUP_WRITES: usize = 1000;
/// About how many bytes a group holds at most, and at most one batch more.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of a segment, after which a checkpoint is due. Bounds how long opening takes after a crash.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Entries of forgotten streams that go in one group, and at most those of one stream (some 11,000) more.
const FORGOTTEN_ENTRIES: usize = 1000;

/// What the committer is asked for.
pub enum Command {
    Write {
        batch: PreparedBatch,
        reply: oneshot::Sender<Result<BatchOutcome, StoreError>>,
    },
    OpenStream {
        id: IngestStreamId,
        reply: oneshot::Sender<Result<OpenedStream, StoreError>>,
    },
    /// To forget these streams, as far as they did not advance since this instant: the first of them, if not all.
    ForgetStreams {
        ids: Vec<IngestStreamId>,
        before: Timestamp,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// To write what stands in a segment once more, so that it can go.
    Relocate {
        /// Payloads, with what points to them.
        relocations: Vec<Relocation>,
        /// Mutations without one.
        standing: Vec<Mutation>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// To give a segment up of which nothing stands any more.
    GiveUp {
        segment: u64,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// To store a compression dictionary, and use it from then on.
    AddDictionary {
        dictionary: Dictionary,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// To take changes out of the change log.
    Trim {
        step: TrimStep,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Time for a checkpoint because nothing else is going on.
    Checkpoint,
    /// No more commands are taken; those that are queued are carried out.
    Close,
}

/// A batch whose expensive part is done.
pub struct PreparedBatch {
    pub writes: Vec<PreparedWrite>,
    pub stream: Option<StreamAdvance>,
}

/// The state of the committer's thread.
pub struct Committer {
    pub trees: Arc<Trees>,
    pub shared: Arc<Shared>,
    pub journal: Journal,
    pub synced: SyncedNote,
    pub state: State,
    pub checkpoints: std::sync::mpsc::SyncSender<CheckpointRequest>,
    /// The latest opening of each ingest stream since this process began, but of those that are finished.
    pub epochs: HashMap<IngestStreamId, u64>,
    /// The epoch that was given out last: none is given twice, whatever is forgotten.
    pub last_epoch: u64,
    pub options: StoreOptions,
    /// Those who wait for the group that is being carried out.
    pub replies: Vec<Reply>,
}

/// Commands for one group.
struct Gathered {
    commands: Vec<Command>,
    /// A command that was taken from the queue and starts the next group.
    next: Option<Command>,
}

/// An answer that waits until its group is durable.
pub enum Reply {
    Batch(oneshot::Sender<Result<BatchOutcome, StoreError>>, BatchOutcome),
    Opened(oneshot::Sender<Result<OpenedStream, StoreError>>, OpenedStream),
    Done(oneshot::Sender<Result<(), StoreError>>),
}

impl Committer {
    /// Serves the queue until it is closed and empty.
    pub fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut pending = None;
        while let Some(first) = pending.take().or_else(|| queue.blocking_recv()) {
            let Gathered { commands, next } = gather(first, &mut queue);
            pending = next;
            if let Err(reason) = self.shared.writable() {
                refuse(commands, &StoreError::Failed(reason));
                continue;
            }
            let committed = catch_unwind(AssertUnwindSafe(|| self.commit(commands)));
            let reason = match committed {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("the storage engine panicked while writing: {}", panic_text(&*panic)),
            };
            self.shared.fail(reason.clone());
            self.refuse_all(&StoreError::Failed(reason));
        }
        if self.shared.writable().is_ok()
            && let Err(error) = self.journal.finish()
        {
            tracing::warn!(%error, "the journal takes some space more than it needs");
        }
    }

    /// Carries a group out.
    ///
    /// # Errors
    /// Where the store can write no more. Whoever waits for an answer stands in `replies` then.
    fn commit(&mut self, commands: Vec<Command>) -> Result<(), StoreError> {
        let trees = Arc::clone(&self.trees);
        let mut group = Group::new(&trees, self.state, &self.journal, self.options.history);
        let mut idle = false;
        for command in commands {
            match command {
                Command::Write { batch, reply } => match self.decide(&mut group, batch)? {
                    Ok(outcome) => self.replies.push(Reply::Batch(reply, outcome)),
                    Err(refusal) => answer(reply, Err(refusal)),
                },
                Command::OpenStream { id, reply } => match group.open_stream(&id, &self.options) {
                    // Whatever is damaged of a stream concerns that stream alone.
                    Err(error @ StoreError::Damaged { .. }) => answer(reply, Err(error)),
                    opened => {
                        let (position, recent) = opened?;
                        self.last_epoch += 1;
                        self.epochs.insert(id, self.last_epoch);
                        self.replies.push(Reply::Opened(reply, OpenedStream { epoch: self.last_epoch, position, recent }));
                    }
                },
                Command::ForgetStreams { ids, before, reply } => {
                    let mut entries = 0;
                    for id in ids {
                        if entries < FORGOTTEN_ENTRIES {
                            entries += group.forget_stream(&id, before)?;
                        }
                    }
                    self.replies.push(Reply::Done(reply));
                }
                Command::Relocate { relocations, standing, reply } => {
                    relocations.into_iter().try_for_each(|relocation| group.relocate(relocation))?;
                    standing.into_iter().try_for_each(|mutation| group.keep(mutation))?;
                    self.replies.push(Reply::Done(reply));
                }
                Command::GiveUp { segment, reply } => {
                    group.give_up(segment)?;
                    self.replies.push(Reply::Done(reply));
                }
                Command::AddDictionary { dictionary, reply } => {
                    group.add_dictionary(&dictionary);
                    self.replies.push(Reply::Done(reply));
                }
                Command::Trim { step, reply } => {
                    group.trim(step)?;
                    self.replies.push(Reply::Done(reply));
                }
                Command::Checkpoint => idle = true,
                Command::Close => {}
            }
        }
        if let Some(decided) = group.finish()? {
            let grows = decided.grows;
            match self.carry_out(decided) {
                // The journal is as it was: the group never happened, and the next may find room.
                Err(StoreError::DiskFull) => {
                    self.shared.set_full(true);
                    self.refuse_all(&StoreError::DiskFull);
                    return Ok(());
                }
                carried_out => carried_out?,
            }
            // Others may use room that is kept free.
            if grows {
                self.shared.set_full(false);
            }
        }
        self.answer_all();
        if self.journal.bytes() >= SEGMENT_BYTES {
            // Without room for a new file the old one goes on growing, or refuses; either way nothing is lost.
            match self.journal.rotate(self.state.group + 1) {
                Err(StoreError::DiskFull) => {}
                rotated => rotated.and_then(|()| self.begin_checkpoint())?,
            }
        } else if idle {
            self.begin_checkpoint()?;
        }
        Ok(())
    }

    /// Makes a group durable, then visible, then known to its writers.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] where nothing was done; where the store can write no more for any other.
    fn carry_out(&mut self, decided: Decided) -> Result<(), StoreError> {
        let Decided { mutations, standing, payloads, state, grows } = decided;
        // What stands already goes first: where both speak of a key, the later decides.
        let frame = Frame::new(state.group, &payloads, standing.iter().chain(&mutations));
        drop((payloads, standing));
        if planted(Fault::AcknowledgeEarly) {
            self.answer_all();
        }
        if planted(Fault::PublishBeforeFsync) {
            self.trees.apply(mutations.clone())?;
            self.shared.publish(&state);
        }
        self.trees.check_room(self.journal.bytes(), frame.len() as u64, grows)?;
        self.journal.write(frame)?;
        if self.options.durability == Durability::Interval {
            self.shared.acknowledge(state.group);
            self.answer_all();
        }
        self.journal.sync()?;
        self.synced.write(state.group)?;
        self.trees.apply(mutations)?;
        self.state = state;
        self.shared.publish(&state);
        Ok(())
    }

    fn answer_all(&mut self) {
        self.replies.drain(..).for_each(Reply::send);
    }

    fn refuse_all(&mut self, error: &StoreError) {
        self.replies.drain(..).for_each(|reply| reply.refuse(error));
    }

    /// Decides one batch. The inner error refuses the batch alone.
    fn decide(&mut self, group: &mut Group<'_>, batch: PreparedBatch) -> Result<Result<BatchOutcome, StoreError>, StoreError> {
        // Before any write is decided: a refused batch leaves nothing behind in the group.
        if let Some(advance) = &batch.stream {
            let current = self.epochs.get(&advance.id) == Some(&advance.epoch);
            let position = match group.position(&advance.id) {
                Err(error @ StoreError::Damaged { .. }) => return Ok(Err(error)),
                position => position?,
            };
            if !current || position.state == StreamState::Finished {
                return Ok(Err(StoreError::StreamTakenOver));
            }
            // Several batches are on their way at once: where one found no room, those behind it are not to jump over its items.
            if !advance.continues(&position, batch.writes.len()) {
                return Ok(Err(StoreError::StreamInterrupted));
            }
        }
        let outcomes = batch.writes.into_iter().map(|write| group.write(write)).collect::<Result<Vec<_>, _>>()?;
        let position = batch.stream.as_ref().map(|advance| group.advance(advance, &outcomes)).transpose()?;
        if let Some(StreamAdvance { id, state: StreamState::Finished, .. }) = &batch.stream {
            // Whoever holds it is refused all the same.
            self.epochs.remove(id);
        }
        Ok(Ok(BatchOutcome { outcomes, position }))
    }

    /// Has everything so far made durable in sled. Waits only where the checkpoint before is not done yet: then sled is
    /// behind, and so must the writers be.
    fn begin_checkpoint(&mut self) -> Result<(), StoreError> {
        let request = CheckpointRequest { group: self.state.group, segment: self.journal.number() };
        self.checkpoints.send(request).map_err(|_| StoreError::Failed("the checkpoint thread has ended".into()))
    }
}

/// Takes what is queued already, up to a group's limits.
fn gather(first: Command, queue: &mut mpsc::Receiver<Command>) -> Gathered {
    let (mut writes, mut bytes) = (0, 0);
    let mut commands = Vec::new();
    let mut next = Some(first);
    while let Some(command) = next {
        if matches!(command, Command::Relocate { .. }) {
            // Alone, since it looks at what stands in the trees.
            return match commands.is_empty() {
                true => Gathered { commands: vec![command], next: None },
                false => Gathered { commands, next: Some(command) },
            };
        }
        match &command {
            Command::Write { batch, .. } => {
                writes += batch.writes.len() + batch.stream.as_ref().map_or(0, |advance| advance.rejections.len());
                bytes += batch.writes.iter().map(PreparedWrite::bytes).sum::<usize>();
            }
            Command::Close => queue.close(),
            Command::OpenStream { .. }
            | Command::ForgetStreams { .. }
            | Command::Relocate { .. }
            | Command::GiveUp { .. }
            | Command::AddDictionary { .. }
            | Command::Trim { .. }
            | Command::Checkpoint => {}
        }
        commands.push(command);
        next = if writes < GROUP_WRITES && bytes < GROUP_BYTES { queue.try_recv().ok() } else { None };
    }
    Gathered { commands, next: None }
}

fn refuse(commands: Vec<Command>, error: &StoreError) {
    for command in commands {
        match command {
            Command::Write { reply, .. } => answer(reply, Err(error.clone())),
            Command::OpenStream { reply, .. } => answer(reply, Err(error.clone())),
            Command::Relocate { reply, .. }
            | Command::GiveUp { reply, .. }
            | Command::AddDictionary { reply, .. }
            | Command::ForgetStreams { reply, .. }
            | Command::Trim { reply, .. } => answer(reply, Err(error.clone())),
            Command::Checkpoint | Command::Close => {}
        }
    }
}

impl Reply {
    fn send(self) {
        match self {
            Self::Batch(reply, outcome) => answer(reply, Ok(outcome)),
            Self::Opened(reply, opened) => answer(reply, Ok(opened)),
            Self::Done(reply) => answer(reply, Ok(())),
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            Self::Batch(reply, _) => answer(reply, Err(error.clone())),
            Self::Opened(reply, _) => answer(reply, Err(error.clone())),
            Self::Done(reply) => answer(reply, Err(error.clone())),
        }
    }
}

/// Whoever asked may have gone; what was decided stands all the same.
fn answer<T>(reply: oneshot::Sender<T>, answer: T) {
    drop(reply.send(answer));
}
