//! Two actions of EC2, which the EBS direct APIs lack: `DescribeSnapshots` and `DeleteSnapshot`.
//!
//! The whole SDK of EC2 would take longer to build than everything else here together; these are one signed form
//! each, and an XML document. Nothing is tried again here.

use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_sdk_ebs::primitives::SdkBody;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Connector, proxy::ProxyConfig};
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorSettings};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use http_body::Body as _;
use jiff::Timestamp;
use serde::Deserialize;

use super::body::bounded;
use super::config::{CONNECT_TIMEOUT, ec2_endpoint};
use super::credentials::KeptCredentials;
use super::errors::{Asked, Refusal, credentials_failed, told};
use super::retry::{Failure, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::snapshot::{Encryption, SnapshotId, SnapshotInfo, Status, Tags, VolumeSize};

const VERSION: &str = "2016-11-15";
/// Snapshots asked for at one time: the service's most.
const PAGE: &str = "1000";

/// Sends single requests to EC2.
pub(super) struct Ec2 {
    connector: Connector,
    credentials: KeptCredentials,
    region: String,
    endpoint: String,
}

/// A snapshot as EC2 tells it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) info: SnapshotInfo,
    /// It cannot be read before it is restored.
    pub(super) archived: bool,
}

/// Snapshots, and where more are.
#[derive(Debug)]
pub(super) struct Descriptions {
    pub(super) snapshots: Vec<Described>,
    pub(super) next: Option<String>,
}

impl Ec2 {
    pub(super) fn new(config: &SdkConfig, region: &str, credentials: KeptCredentials) -> Self {
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT);
        Self {
            connector: Connector::builder()
                .connector_settings(settings.build())
                .proxy_config(ProxyConfig::from_env())
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .build(),
            credentials,
            region: region.to_owned(),
            endpoint: ec2_endpoint(config, region),
        }
    }

    /// One page of the caller's own snapshots.
    pub(super) async fn list(&self, next: Option<&str>) -> Result<Descriptions, Failure> {
        let asked = Asked {
            action: DESCRIBE,
            what: "",
        };
        let mut form = vec![("Owner.1", "self"), ("MaxResults", PAGE)];
        form.extend(next.map(|next| ("NextToken", next)));
        descriptions(asked, &self.send(asked, &form).await?)
    }

    /// One snapshot, anybody's.
    pub(super) async fn describe(&self, id: &SnapshotId) -> Result<Described, Failure> {
        let asked = Asked {
            action: DESCRIBE,
            what: id.as_str(),
        };
        let answer = self.send(asked, &[("SnapshotId.1", id.as_str())]).await?;
        let mut found = descriptions(asked, &answer)?.snapshots.into_iter();
        found
            .find(|described| described.info.id == *id)
            .ok_or_else(|| {
                asked.refused(&Refusal {
                    status: 400,
                    code: "InvalidSnapshot.NotFound",
                    message: "the answer does not have it",
                    reason: None,
                })
            })
    }

    pub(super) async fn delete(&self, id: &SnapshotId) -> Result<(), Failure> {
        let asked = Asked {
            action: "ec2:DeleteSnapshot",
            what: id.as_str(),
        };
        let form = [("SnapshotId", id.as_str())];
        self.send(asked, &form).await.map(drop)
    }

    async fn send(&self, asked: Asked<'_>, form: &[(&str, &str)]) -> Result<String, Failure> {
        let action = asked.action.trim_start_matches("ec2:");
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", action)
            .append_pair("Version", VERSION)
            .extend_pairs(form)
            .finish();
        let credentials = self.credentials.credentials().await;
        let identity: Identity = credentials.map_err(|e| credentials_failed(&e))?.into();
        let request = signed(&self.endpoint, &self.region, &identity, body)
            .map_err(|e| asked.failed(Verdict::Final, ErrorKind::Invalid, e))?;
        let response = self.connector.call(request).await;
        let mut response = response.map_err(|e| asked.connector(&e))?;
        let status = response.status().as_u16();
        let mut body = bounded(response.take_body());
        let mut text = Vec::new();
        loop {
            let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx));
            match frame.await {
                None => break,
                Some(Ok(frame)) => text.extend(frame.data_ref().into_iter().flatten()),
                Some(Err(e)) => return Err(asked.cut_short(&*e)),
            }
        }
        let text = String::from_utf8(text).map_err(|_| asked.corrupt("the answer is not text"))?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        let said = quick_xml::de::from_str::<Refused>(&text).unwrap_or_default();
        let said = said.errors.error.unwrap_or_default();
        Err(asked.refused(&Refusal {
            status,
            code: &said.code,
            message: &said.message,
            reason: None,
        }))
    }
}

const DESCRIBE: &str = "ec2:DescribeSnapshots";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// A form for the service at `endpoint`.
fn signed(
    endpoint: &str,
    region: &str,
    identity: &Identity,
    form: String,
) -> Result<HttpRequest, String> {
    let url = format!("{}/", endpoint.trim_end_matches('/'));
    let wrong = |e: &dyn std::error::Error| format!("{endpoint}: {}", told(e));
    let params = v4::SigningParams::builder()
        .identity(identity)
        .region(region)
        .name("ec2")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| wrong(&e))?
        .into();
    let headers = std::iter::once(("content-type", FORM));
    let signable = SignableRequest::new(
        "POST",
        url.as_str(),
        headers,
        SignableBody::Bytes(form.as_bytes()),
    )
    .map_err(|e| wrong(&e))?;
    let (instructions, _) = sign(signable, &params).map_err(|e| wrong(&e))?.into_parts();
    let mut request = http::Request::post(&url)
        .header(http::header::CONTENT_TYPE, FORM)
        .body(SdkBody::from(form))
        .map_err(|e| wrong(&e))?;
    instructions.apply_to_request_http1x(&mut request);
    HttpRequest::try_from(request).map_err(|e| wrong(&e))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    #[serde(rename = "Errors")]
    errors: Errors,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    #[serde(rename = "Error")]
    error: Option<Said>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Said {
    code: String,
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    snapshot_set: Set<Item>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
struct Set<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    snapshot_id: String,
    volume_size: u32,
    status: String,
    start_time: Option<Timestamp>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    encrypted: bool,
    kms_key_id: Option<String>,
    storage_tier: Option<String>,
    #[serde(default)]
    tag_set: Set<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

fn descriptions(asked: Asked<'_>, text: &str) -> Result<Descriptions, Failure> {
    let answer: Answer = quick_xml::de::from_str(text)
        .map_err(|e| asked.corrupt(format!("the answer cannot be understood: {e}")))?;
    let snapshots = answer.snapshot_set.item.into_iter().map(described);
    Ok(Descriptions {
        snapshots: snapshots
            .collect::<Result<_>>()
            .map_err(|e| asked.corrupt(e.to_string()))?,
        next: answer.next_token.filter(|next| !next.is_empty()),
    })
}

fn described(item: Item) -> Result<Described> {
    let status = match item.status.as_str() {
        "completed" => Status::Completed,
        "pending" | "recovering" => Status::Pending,
        // In the recycle bin, if it is not broken: good for nothing as it is.
        "error" | "recoverable" => Status::Error,
        other => {
            let what = format!("{}: unknown status {other:?}", item.snapshot_id);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
    };
    let tags = item.tag_set.item.into_iter();
    Ok(Described {
        archived: item.storage_tier.as_deref() == Some("archive"),
        info: SnapshotInfo {
            id: item.snapshot_id.parse()?,
            // EC2 does not tell it.
            parent: None,
            volume_size: VolumeSize::from_gib(item.volume_size)?,
            status,
            start_time: item.start_time,
            description: item.description,
            tags: tags.map(|tag| (tag.key, tag.value)).collect::<Tags>(),
            encryption: item.encrypted.then_some(Encryption {
                kms_key_arn: item.kms_key_id.filter(|key| !key.is_empty()),
            }),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked {
        action: DESCRIBE,
        what: "snap-0",
    };

    /// The example of the EC2 API Reference, with a second snapshot that has everything.
    const EXAMPLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeSnapshotsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
   <requestId>59dbff89-35bd-4eac-99ed-be587EXAMPLE</requestId>
   <snapshotSet>
      <item>
         <snapshotId>snap-1234567890abcdef0</snapshotId>
         <ownerId>111122223333</ownerId>
         <volumeId>vol-1234567890abcdef0</volumeId>
         <status>pending</status>
         <startTime>2013-09-17T17:42:36.000Z</startTime>
         <progress>30%</progress>
         <volumeSize>15</volumeSize>
         <description>Daily &lt;Backup&gt; &#233;&amp;
</description>
         <tagSet/>
         <encrypted>true</encrypted>
         <kmsKeyId>arn:aws:kms:us-east-1:012345678910:key/abcd1234-a123-456a-a12b-a123b4cd56ef</kmsKeyId>
         <storageTier>standard</storageTier>
      </item>
      <item>
         <snapshotId>snap-0a</snapshotId>
         <status>completed</status>
         <volumeSize>65536</volumeSize>
         <description/>
         <encrypted>false</encrypted>
         <tagSet><item><key>Name</key><value> a b </value></item><item><key>k</key><value/></item></tagSet>
         <storageTier>archive</storageTier>
      </item>
   </snapshotSet>
   <nextToken>abc==</nextToken>
</DescribeSnapshotsResponse>"#;

    #[test]
    fn the_example_of_the_documents_is_read() {
        let answer = descriptions(ASKED, EXAMPLE).unwrap();
        assert_eq!(answer.next.as_deref(), Some("abc=="));
        let [first, second] = &answer.snapshots[..] else {
            panic!("{answer:?}")
        };
        assert_eq!(first.info.status, Status::Pending);
        assert_eq!(first.info.description, "Daily <Backup> é&\n");
        assert_eq!(first.info.start_time, "2013-09-17T17:42:36Z".parse().ok());
        assert!(first.info.encryption.is_some() && !first.archived);
        assert_eq!(second.info.volume_size.gib(), 65536);
        assert_eq!(second.info.tags["Name"], " a b ");
        assert_eq!(second.info.tags["k"], "");
        assert!(second.info.encryption.is_none() && second.archived);
    }

    #[test]
    fn an_empty_answer_has_no_snapshots_and_another_one_is_corrupt() {
        let empty = "<DescribeSnapshotsResponse><snapshotSet/></DescribeSnapshotsResponse>";
        assert!(descriptions(ASKED, empty).unwrap().snapshots.is_empty());
        for bad in ["", "<html>", "{}", &EXAMPLE.replace("65536", "65537")] {
            let failure = descriptions(ASKED, bad).unwrap_err();
            assert_eq!(failure.verdict, Verdict::Corrupt, "{bad}");
        }
    }
}
