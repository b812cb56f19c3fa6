//! A store that operations are carried out on, side by side with the model.

use std::collections::VecDeque;
use std::path::PathBuf;

use dateline::storage::sled::SledStore;
use dateline::storage::{ArticleStore as _, History, PendingCommit, StoreOptions};
use tempfile::TempDir;

use super::expected::Model;
use super::image::Image;
use super::operation::{Batch, Operation, STREAMS, stream_id};

/// A store in a folder, and what it should hold.
pub struct Run {
    pub path: PathBuf,
    pub model: Model,
    folder: TempDir,
    store: Option<SledStore>,
}

impl Run {
    /// A new store that keeps so many earlier revisions.
    pub fn begin(history: History) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0");
        let model = Model::of(history);
        let store = SledStore::open(&path, StoreOptions { history, ..StoreOptions::default() }).unwrap();
        Self { store: Some(store), folder, path, model }
    }

    pub fn store(&self) -> &SledStore {
        self.store.as_ref().unwrap()
    }

    fn reopen(&mut self, path: PathBuf) {
        // Whoever holds the old one holds the folder's lock.
        self.store = None;
        let options = StoreOptions { history: self.model.history, ..StoreOptions::default() };
        self.store = Some(SledStore::open(&path, options).unwrap());
        self.path = path;
    }

    pub async fn carry_out(&mut self, number: usize, operation: Operation) {
        match operation {
            Operation::Write(batch) => {
                let outcome = self.store().write(self.model.clone().plan(&batch)).await;
                self.model.carry_out(&batch, outcome);
            }
            Operation::Open(stream) => {
                self.model.opened(stream, self.store().open_stream(&stream_id(stream)).await.unwrap());
                self.rejections_are_kept(stream).await;
            }
            Operation::Restart => {
                let before = self.store().stats().await.unwrap().contents;
                self.store().close().await.unwrap();
                self.reopen(self.path.clone());
                assert_eq!(self.store().stats().await.unwrap().contents, before);
                self.model.reopened();
            }
            Operation::Crash { batches, acknowledged, submitted } => {
                let (image, states) = self.write_and_take_image(&batches, acknowledged, submitted).await;
                self.store().close().await.unwrap();
                let path = self.folder.path().join((number + 1).to_string());
                image.restore(&path);
                self.reopen(path);
                self.recognise(&states[acknowledged..]).await;
            }
        }
    }

    /// Submits batches and takes an image of the folder meanwhile. Gives it with what the store should hold after each number
    /// of batches.
    async fn write_and_take_image(&self, batches: &[Batch], acknowledged: usize, submitted: usize) -> (Image, Vec<Model>) {
        let mut planned = self.model.clone();
        let mut pending = VecDeque::new();
        let mut states = vec![self.model.clone()];
        for batch in &batches[..submitted] {
            pending.push_back(self.store().submit(planned.plan(batch)).await.unwrap());
        }
        self.wait_for(batches, &mut states, &mut pending, acknowledged).await;
        let path = self.path.clone();
        let image = tokio::task::spawn_blocking(move || Image::take(&path));
        for batch in &batches[submitted..] {
            pending.push_back(self.store().submit(planned.plan(batch)).await.unwrap());
        }
        self.wait_for(batches, &mut states, &mut pending, batches.len()).await;
        (image.await.unwrap(), states)
    }

    /// Waits until so many batches are acknowledged.
    async fn wait_for(&self, batches: &[Batch], states: &mut Vec<Model>, pending: &mut VecDeque<PendingCommit>, count: usize) {
        while states.len() <= count {
            let number = states.len() - 1;
            let outcome = pending.pop_front().unwrap().await;
            let mut after = states[number].clone();
            after.carry_out(&batches[number], outcome);
            states.push(after);
        }
    }

    /// Finds out after how many batches a crash came. It must be one of these states, streams included.
    async fn recognise(&mut self, states: &[Model]) {
        let mut opened = Vec::new();
        for stream in 0..STREAMS {
            opened.push(self.store().open_stream(&stream_id(stream)).await.unwrap());
        }
        let sequence = self.store().sequence();
        let fits =
            |state: &&Model| state.sequence() == sequence && opened.iter().enumerate().all(|(stream, opened)| state.is_at(stream, opened));
        let found = states.iter().find(fits);
        let known: Vec<u64> = states.iter().map(Model::sequence).collect();
        self.model = found.unwrap_or_else(|| panic!("change {sequence} is the end of no batch: {known:?} are; {opened:?}")).clone();
        self.model.reopened();
        opened.into_iter().enumerate().for_each(|(stream, opened)| self.model.opened(stream, opened));
        for stream in 0..STREAMS {
            self.rejections_are_kept(stream).await;
        }
    }

    async fn rejections_are_kept(&self, stream: usize) {
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let page = self.store().rejections(&stream_id(stream), from, 300).await.unwrap();
            found.extend(page.items);
            next = page.next;
        }
        assert_eq!(found, self.model.rejections(stream));
    }
}
