//! The six actions of the EBS direct APIs: one request and one answer each, checked. Nothing is tried again here.

use aws_sdk_ebs::Client;
use aws_sdk_ebs::operation::get_snapshot_block::GetSnapshotBlockOutput;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm, Status as WireStatus, Tag};
use bytes::Bytes;
use jiff::Timestamp;

use super::errors::Asked;
use super::page::{Answer, PAGE, Paging};
use super::retry::Failure;
use crate::block::{BLOCK_SIZE, Block, BlockBuilder, BlockIndex, Digest};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{
    Encryption, NewSnapshot, Seal, SnapshotId, SnapshotInfo, Status, VolumeSize,
};

/// Sends single requests.
pub(super) struct Wire {
    client: Client,
}

/// An index as the service counts; `Invalid` if it cannot.
fn wire_index(index: BlockIndex) -> Result<i32> {
    i32::try_from(index.get())
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("no volume has a block {index}")))
}

impl Wire {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Answers of a listing of `id` from `from` on, or of what its `paging` asks for next.
    pub(super) async fn list(
        &self,
        id: &SnapshotId,
        from: BlockIndex,
        paging: &Paging,
    ) -> Result<Answer, Failure> {
        let asked = Asked {
            action: "ebs:ListSnapshotBlocks",
            what: id.as_str(),
        };
        let from = wire_index(from).map_err(Failure::last)?;
        let request = self.client.list_snapshot_blocks().snapshot_id(id.as_str());
        let request = match paging.next_token() {
            Some(next) => request.next_token(next),
            None => request.starting_block_index(from),
        };
        let sent = request.max_results(PAGE).send().await;
        let output = sent.map_err(|e| asked.sdk(&e))?;
        let block = |block: aws_sdk_ebs::types::Block| (block.block_index, block.block_token);
        Ok(Answer {
            block_size: output.block_size,
            volume_size: output.volume_size,
            expiry_time: output.expiry_time,
            next_token: output.next_token,
            blocks: output
                .blocks
                .unwrap_or_default()
                .into_iter()
                .map(block)
                .collect(),
        })
    }

    /// The same of what differs between two snapshots.
    pub(super) async fn list_changed(
        &self,
        first: &SnapshotId,
        second: &SnapshotId,
        from: BlockIndex,
        paging: &Paging,
    ) -> Result<Answer, Failure> {
        let what = format!("{second} against {first}");
        let asked = Asked {
            action: "ebs:ListChangedBlocks",
            what: &what,
        };
        let from = wire_index(from).map_err(Failure::last)?;
        let request = self
            .client
            .list_changed_blocks()
            .first_snapshot_id(first.as_str())
            .second_snapshot_id(second.as_str());
        let request = match paging.next_token() {
            Some(next) => request.next_token(next),
            None => request.starting_block_index(from),
        };
        let sent = request.max_results(PAGE).send().await;
        let output = sent.map_err(|e| asked.sdk(&e))?;
        let blocks = output.changed_blocks.unwrap_or_default();
        Ok(Answer {
            block_size: output.block_size,
            volume_size: output.volume_size,
            expiry_time: output.expiry_time,
            next_token: output.next_token,
            blocks: blocks
                .into_iter()
                .map(|block| (block.block_index, None))
                .collect(),
        })
    }

    /// A block, hashed as it arrives; never more than a block is read.
    pub(super) async fn get(
        &self,
        id: &SnapshotId,
        index: BlockIndex,
        token: &str,
    ) -> Result<Block, Failure> {
        let what = format!("block {index} of {id}");
        let asked = Asked {
            action: "ebs:GetSnapshotBlock",
            what: &what,
        };
        let mut block = BlockBuilder::new();
        let sent = self
            .client
            .get_snapshot_block()
            .snapshot_id(id.as_str())
            .block_index(wire_index(index).map_err(Failure::last)?)
            .block_token(token)
            .send()
            .await;
        let mut output = sent.map_err(|e| asked.sdk(&e))?;
        let expected = promised(&output).map_err(|what| asked.corrupt(what))?;
        while let Some(piece) = output.block_data.next().await {
            let piece = piece.map_err(|e| asked.cut_short(&e))?;
            block
                .push(&piece)
                .map_err(|e| asked.corrupt(e.to_string()))?;
        }
        block
            .finish(&expected)
            .await
            .map_err(|e| asked.corrupt(e.to_string()))
    }

    pub(super) async fn start(&self, new: &NewSnapshot) -> Result<SnapshotInfo, Failure> {
        let asked = Asked {
            action: "ebs:StartSnapshot",
            what: new.parent.as_ref().map_or("", SnapshotId::as_str),
        };
        let tag = |(key, value): (&String, &String)| Tag::builder().key(key).value(value).build();
        let tags: Vec<_> = new.tags.iter().map(tag).collect();
        let key = new.encryption.as_ref().and_then(|e| e.kms_key_arn.clone());
        let minutes = i32::try_from(new.timeout.as_secs().div_ceil(60)).ok();
        let sent = self
            .client
            .start_snapshot()
            .volume_size(i64::from(new.volume_size.gib()))
            .set_parent_snapshot_id(new.parent.as_ref().map(ToString::to_string))
            .set_description(Some(new.description.clone()).filter(|text| !text.is_empty()))
            .set_tags(Some(tags).filter(|tags| !tags.is_empty()))
            .client_token(&new.client_token)
            .set_timeout(minutes)
            .set_encrypted(new.encryption.as_ref().map(|_| true))
            .set_kms_key_arn(key)
            .send()
            .await;
        let output = sent.map_err(|e| asked.sdk(&e))?;
        if output
            .block_size
            .and_then(|size| usize::try_from(size).ok())
            != Some(BLOCK_SIZE)
        {
            return Err(asked.corrupt("the answer says another block size than 512 KiB"));
        }
        let read = |text: Option<String>| text.unwrap_or_default().parse::<SnapshotId>();
        let id = read(output.snapshot_id).map_err(|e| asked.corrupt(e.to_string()))?;
        let parent = match output.parent_snapshot_id.filter(|id| !id.is_empty()) {
            Some(parent) => Some(
                parent
                    .parse()
                    .map_err(|e: Error| asked.corrupt(e.to_string()))?,
            ),
            None => None,
        };
        let status = match output.status {
            Some(WireStatus::Completed) => Status::Completed,
            Some(WireStatus::Error) => Status::Error,
            _ => Status::Pending,
        };
        let encrypted = output.kms_key_arn.is_some() || new.encryption.is_some();
        let tags = output.tags.unwrap_or_default().into_iter();
        Ok(SnapshotInfo {
            id,
            parent,
            volume_size: output
                .volume_size
                .and_then(|gib| u32::try_from(gib).ok())
                .and_then(|gib| VolumeSize::from_gib(gib).ok())
                .unwrap_or(new.volume_size),
            status,
            start_time: output.start_time.and_then(|time| {
                Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
            }),
            description: output.description.unwrap_or_default(),
            tags: tags
                .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()))
                .collect(),
            encryption: encrypted.then_some(Encryption {
                kms_key_arn: output.kms_key_arn,
            }),
        })
    }

    /// `progress`: the percentage of the volume that lies before the block.
    pub(super) async fn put(
        &self,
        id: &SnapshotId,
        index: BlockIndex,
        block: &Block,
        progress: Option<i32>,
    ) -> Result<(), Failure> {
        let what = format!("block {index} of {id}");
        let asked = Asked {
            action: "ebs:PutSnapshotBlock",
            what: &what,
        };
        let body = Bytes::from_owner(Body(block.clone()));
        let sent = self
            .client
            .put_snapshot_block()
            .snapshot_id(id.as_str())
            .block_index(wire_index(index).map_err(Failure::last)?)
            .set_data_length(i32::try_from(body.len()).ok())
            .block_data(ByteStream::from(body))
            .checksum(block.digest().to_base64())
            .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
            .set_progress(progress)
            .send()
            .await;
        sent.map(drop).map_err(|e| asked.sdk(&e))
    }

    pub(super) async fn complete(&self, id: &SnapshotId, seal: &Seal) -> Result<(), Failure> {
        let asked = Asked {
            action: "ebs:CompleteSnapshot",
            what: id.as_str(),
        };
        let count = i32::try_from(seal.count).map_err(|_| {
            Failure::last(Error::new(
                ErrorKind::Invalid,
                "more blocks than a volume has",
            ))
        })?;
        let mut request = self
            .client
            .complete_snapshot()
            .snapshot_id(id.as_str())
            .changed_blocks_count(count);
        if let Some(checksum) = &seal.checksum {
            request = request
                .checksum(checksum.to_base64())
                .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
                .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear);
        }
        request.send().await.map(drop).map_err(|e| asked.sdk(&e))
    }
}

/// The bytes of a block, lent to a request.
struct Body(Block);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The checksum that the answer's headers promise; otherwise what is wrong with them.
fn promised(output: &GetSnapshotBlockOutput) -> Result<Digest, String> {
    if output.data_length.and_then(|len| usize::try_from(len).ok()) != Some(BLOCK_SIZE) {
        return Err(format!(
            "the answer says a length of {:?}, not {BLOCK_SIZE}",
            output.data_length
        ));
    }
    match &output.checksum_algorithm {
        Some(ChecksumAlgorithm::ChecksumAlgorithmSha256) => {}
        other => return Err(format!("the answer has a checksum of algorithm {other:?}")),
    }
    let checksum = output.checksum.as_deref().unwrap_or_default();
    Digest::from_base64(checksum).map_err(|e| e.to_string())
}
