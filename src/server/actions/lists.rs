//! The two lists: pages of indexes with a token for each block.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use http::StatusCode;

use super::Service;
use crate::block::{BLOCK_SIZE, BlockIndex};
use crate::error::Result;
use crate::server::answers::{Answer, Refusal, json};
use crate::server::parameters::{Parameters, snapshot_id};
use crate::server::tokens::Listing as TokenListing;
use crate::server::wire::{self, BlockPage, ChangedBlock, ChangedPage, ListedBlock, reason};
use crate::snapshot::SnapshotId;
use crate::source::BlockSource;
use crate::store::{Listing, Store};

/// Listings that one page asks the store for at most: where blocks are that few, pages end early, and the last
/// may be empty, as the documents permit.
const LISTINGS: usize = 32;

/// `GET /snapshots/{id}/blocks`
pub(in super::super) async fn list_snapshot_blocks(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let id = snapshot_id(&id)?;
    let request = Request::parse(&service, query, vec!["blocks".into(), id.to_string()])?;
    let snapshot = service.snapshots.readable(&id).await?;
    let pages = Pages::Of(&*snapshot.source);
    let (indexes, next) = collect(&request, snapshot.source.count(), &pages).await?;
    let tokens = service.tokens.list(&id);
    let blocks = indexes.into_iter().map(|index| ListedBlock {
        block_index: index.get(),
        block_token: service.tokens.block(&tokens, index),
    });
    let answer = BlockPage {
        blocks: blocks.collect(),
        page: request.page(&service, next, &tokens, snapshot.info.volume_size.gib()),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// `GET /snapshots/{id}/changedblocks`
pub(in super::super) async fn list_changed_blocks(
    State(service): State<Arc<Service>>,
    Path(second): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer {
    let second = snapshot_id(&second)?;
    let parameters = Parameters::parse(query.as_deref().unwrap_or_default().as_bytes());
    let first = parameters.one("firstSnapshotId")?;
    let first = first.map(snapshot_id).transpose()?;
    let mut bound = vec!["changedblocks".into(), second.to_string()];
    bound.extend(first.as_ref().map(SnapshotId::to_string));
    let request = Request::parse(&service, query, bound)?;

    let new = service.snapshots.readable(&second).await?;
    let old = match &first {
        Some(first) => Some(service.snapshots.readable(first).await?),
        None => None,
    };
    let pages = match &first {
        Some(first) => Pages::Between(&*service.snapshots.store, first, &second),
        // Against nothing, everything has changed.
        None => Pages::Of(&*new.source),
    };
    let listed = collect(&request, new.source.count(), &pages);
    // Both are readable and the index is inside: this is all that is left to refuse.
    let unrelated = |refusal: Refusal| match refusal.reason {
        Some(reason::INVALID_PARAMETER_VALUE) => refusal.because(reason::UNRELATED_SNAPSHOTS),
        _ => refusal,
    };
    let (indexes, next) = listed.await.map_err(unrelated)?;

    let new_tokens = service.tokens.list(&second);
    let old_tokens = first.as_ref().map(|first| service.tokens.list(first));
    let mut in_new = Presence::of(&*new.source);
    let mut in_old = old.as_ref().map(|old| Presence::of(&*old.source));
    let mut changed_blocks = Vec::with_capacity(indexes.len());
    for index in indexes {
        let first_block_token = match (&mut in_old, &old_tokens) {
            (Some(presence), Some(tokens)) => {
                let in_first = presence.has(index).await?;
                in_first.then(|| service.tokens.block(tokens, index))
            }
            _ => None,
        };
        let in_second = in_new.has(index).await?;
        changed_blocks.push(ChangedBlock {
            block_index: index.get(),
            first_block_token,
            second_block_token: in_second.then(|| service.tokens.block(&new_tokens, index)),
        });
    }
    let answer = ChangedPage {
        changed_blocks,
        page: request.page(&service, next, &new_tokens, new.info.volume_size.gib()),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// What both lists are asked for.
struct Request {
    /// What a token for the next page is good for.
    bound: Vec<String>,
    from: BlockIndex,
    results: usize,
}

impl Request {
    fn parse(service: &Service, query: Option<String>, bound: Vec<String>) -> Answer<Self> {
        let query = Parameters::parse(query.unwrap_or_default().as_bytes());
        let results = query.max_results()?;
        // Checked even where a token wins over it.
        let start = query.starting_block()?;
        let from = match query.token("pageToken", reason::INVALID_PAGE_TOKEN)? {
            None => start,
            Some(token) => {
                let cursor = service.tokens.cursor(&as_strs(&bound), token);
                let index = cursor.and_then(|cursor| cursor.try_into().ok());
                let index = index.ok_or_else(|| {
                    let message = "the page token is not one for this list, or older than 60 minutes: list from the start";
                    Refusal::invalid(reason::INVALID_PAGE_TOKEN, message)
                })?;
                BlockIndex::new(u32::from_be_bytes(index))
            }
        };
        Ok(Self {
            bound,
            from,
            results,
        })
    }

    fn page(
        &self,
        service: &Service,
        next: Option<BlockIndex>,
        tokens: &TokenListing<'_>,
        volume_size: u32,
    ) -> wire::Page {
        let token = |index: BlockIndex| {
            service
                .tokens
                .page(&as_strs(&self.bound), &index.get().to_be_bytes())
        };
        wire::Page {
            block_size: BLOCK_SIZE,
            expiry_time: tokens.expiry_time(),
            next_token: next.map(token),
            volume_size,
        }
    }
}

fn as_strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Where listings come from.
enum Pages<'a> {
    /// What a snapshot has.
    Of(&'a dyn BlockSource),
    /// What differs between two.
    Between(&'a dyn Store, &'a SnapshotId, &'a SnapshotId),
}

impl Pages<'_> {
    async fn at(&self, at: BlockIndex) -> Result<Arc<Listing>> {
        match self {
            Self::Of(source) => source.present(at).await,
            Self::Between(store, first, second) => {
                store.changed(first, second, at).await.map(Arc::new)
            }
        }
    }
}

/// The indexes of one page, and where the next one begins.
async fn collect(
    request: &Request,
    count: u32,
    pages: &Pages<'_>,
) -> Answer<(Vec<BlockIndex>, Option<BlockIndex>)> {
    let mut indexes = Vec::new();
    let mut at = request.from;
    for _ in 0..LISTINGS {
        // Past the end there is nothing, which is no error.
        if at.get() >= count {
            return Ok((indexes, None));
        }
        let listing = pages.at(at).await?;
        // A listing may begin before it was asked to.
        let runs = listing
            .set
            .runs()
            .map(|run| run.start.max(at.get())..run.end);
        for index in runs.flatten().map(BlockIndex::new) {
            if indexes.len() == request.results {
                return Ok((indexes, Some(index)));
            }
            indexes.push(index);
        }
        match listing.next() {
            Some(next) => at = next,
            None => return Ok((indexes, None)),
        }
    }
    Ok((indexes, Some(at)))
}

/// Which blocks a snapshot has, asked in ascending order.
struct Presence<'a> {
    source: &'a dyn BlockSource,
    window: Option<Arc<Listing>>,
}

impl<'a> Presence<'a> {
    fn of(source: &'a dyn BlockSource) -> Self {
        Self {
            source,
            window: None,
        }
    }

    async fn has(&mut self, index: BlockIndex) -> Result<bool> {
        if index.get() >= self.source.count() {
            return Ok(false);
        }
        let window = match self.window.take() {
            Some(window) if window.covered.contains(&index.get()) => window,
            _ => self.source.present(index).await?,
        };
        let has = window.set.contains(index);
        self.window = Some(window);
        Ok(has)
    }
}
