//! Where the service is and who asks: what every AWS tool accepts, read by the SDK.

use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ebs::Client;
use aws_sdk_ebs::config::StalledStreamProtectionConfig;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::service_config::ServiceConfigKey;

use super::body::BoundBodies;
use super::credentials::KeptCredentials;
use super::errors::credentials_failed;
use super::retry::Limits;
use crate::error::{Error, ErrorKind, Result};

/// What a user may say beside their AWS configuration; nothing: what that says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// The region.
    pub region: Option<String>,
    /// A profile of the configuration files.
    pub profile: Option<String>,
    /// Another endpoint, for all services.
    pub endpoint_url: Option<String>,
}

/// How the store talks to the service.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Requests under way at one time, to begin with: from there on it follows what is measured.
    pub start: usize,
    /// Of reads and listings.
    pub reads: Limits,
    /// Of puts and all other changes.
    pub writes: Limits,
    /// Memory for listings and block tokens of all snapshots.
    pub memory: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // More than is needed where the service is next door; three round trips make hundreds of it where that helps.
            start: 32,
            reads: Limits {
                // Two minutes is what readers wait: they are to hear the reason.
                deadline: Duration::from_secs(118),
                // With 64 under way, 10 Mbit/s brings each of them in this time.
                attempt: Duration::from_secs(30),
            },
            writes: Limits {
                // A new snapshot may be unknown for two minutes.
                deadline: Duration::from_secs(300),
                attempt: Duration::from_secs(60),
            },
            // A page of 10000 blocks takes about 800 KiB with the service's tokens.
            memory: 16 << 20,
        }
    }
}

/// To a service that can be reached at all.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The user's AWS configuration, changed by `options`.
pub(super) async fn load(options: &Options) -> SdkConfig {
    let mut loader = ConfigLoader::default().behavior_version(BehaviorVersion::latest());
    if let Some(region) = &options.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(profile) = &options.profile {
        // Said on the command line it goes before keys in the environment, as in the aws CLI.
        let credentials = ProfileFileCredentialsProvider::builder().profile_name(profile);
        loader = loader
            .profile_name(profile)
            .credentials_provider(credentials.build());
    }
    if let Some(url) = &options.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    loader.load().await
}

/// What the parts of a store are made of.
pub(super) struct Access {
    pub(super) client: Client,
    pub(super) credentials: KeptCredentials,
    pub(super) region: String,
    pub(super) identity: String,
}

/// Checks a configuration and makes a client of it: `Invalid` without a region, `Denied` without credentials.
pub(super) async fn access(config: &SdkConfig) -> Result<Access> {
    let region = config.region().map(ToString::to_string).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "no AWS region: name one with --region, in AWS_REGION, or in the profile; or a directory with --store DIR",
        )
    })?;
    let provider = config.credentials_provider().ok_or_else(no_provider)?;
    let credentials = KeptCredentials::new(provider);
    // Now, not at the first request: no retry and no fallback helps who has none.
    let first = credentials.credentials().await;
    first.map_err(|e| {
        let error = credentials_failed(&e).error;
        error.context("cannot reach AWS (a local store is named with --store DIR)")
    })?;
    let endpoint = endpoint_url(config, "EBS");
    endpoint.as_deref().map_or(Ok(()), check_url)?;
    let identity = match &endpoint {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("aws:{}:{region}", partition(&region)),
    };
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT);
    let client = aws_sdk_ebs::Config::from(config)
        .to_builder()
        .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts.build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .interceptor(BoundBodies)
        .build();
    Ok(Access {
        client: Client::from_conf(client),
        credentials,
        region,
        identity,
    })
}

/// `Invalid` unless requests can be sent there at all.
fn check_url(url: &str) -> Result<()> {
    let uri: Option<http::Uri> = url.parse().ok();
    let good = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
    });
    if good {
        return Ok(());
    }
    let what = format!("the endpoint {url:?} is no URL of a service: write http(s)://HOST[:PORT]");
    Err(Error::new(ErrorKind::Invalid, what))
}

fn no_provider() -> Error {
    Error::new(
        ErrorKind::Denied,
        "this AWS configuration has no credentials",
    )
}

/// The endpoint configured for a service, or for all.
pub(super) fn endpoint_url(config: &SdkConfig, service: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id(service)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok();
    // What was said on the command line goes for all services.
    let of_service = match config.get_origin("endpoint_url").is_client_config() {
        true => None,
        false => config
            .service_config()
            .zip(key)
            .and_then(|(services, key)| services.load_config(key)),
    };
    of_service.or_else(|| config.endpoint_url().map(str::to_owned))
}

/// The partition of a region, and the domain of its services.
const PARTITIONS: &[(&str, &str, &str, &str)] = &[
    (
        "cn-",
        "aws-cn",
        "amazonaws.com.cn",
        "api.amazonwebservices.com.cn",
    ),
    ("us-gov-", "aws-us-gov", "amazonaws.com", "api.aws"),
    ("us-iso-", "aws-iso", "c2s.ic.gov", "api.aws.ic.gov"),
    ("us-isob-", "aws-iso-b", "sc2s.sgov.gov", "api.aws.scloud"),
    (
        "eu-isoe-",
        "aws-iso-e",
        "cloud.adc-e.uk",
        "api.cloud-aws.adc-e.uk",
    ),
    (
        "us-isof-",
        "aws-iso-f",
        "csp.hci.ic.gov",
        "api.aws.hci.ic.gov",
    ),
    (
        "eusc-",
        "aws-eusc",
        "amazonaws.eu",
        "api.amazonwebservices.eu",
    ),
    ("", "aws", "amazonaws.com", "api.aws"),
];

fn partition_of(region: &str) -> (&'static str, &'static str, &'static str) {
    let found = PARTITIONS
        .iter()
        .find(|(prefix, ..)| region.starts_with(prefix));
    found.map_or(
        ("aws", "amazonaws.com", "api.aws"),
        |(_, name, domain, dual)| (name, domain, dual),
    )
}

fn partition(region: &str) -> &'static str {
    partition_of(region).0
}

/// Where EC2 answers: what is configured, else the region's endpoint.
pub(super) fn ec2_endpoint(config: &SdkConfig, region: &str) -> String {
    endpoint_url(config, "EC2").unwrap_or_else(|| {
        let fips = config.use_fips().unwrap_or_default();
        let dual_stack = config.use_dual_stack().unwrap_or_default();
        ec2_host(region, fips, dual_stack)
    })
}

fn ec2_host(region: &str, fips: bool, dual_stack: bool) -> String {
    let (partition, domain, dual) = partition_of(region);
    // The endpoints of GovCloud are FIPS endpoints under their ordinary names.
    let name = match fips && (partition != "aws-us-gov" || dual_stack) {
        true => "ec2-fips",
        false => "ec2",
    };
    let domain = if dual_stack { dual } else { domain };
    format!("https://{name}.{region}.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ec2_is_asked_where_the_partition_has_it() {
        for (region, fips, dual_stack, host) in [
            ("us-east-1", false, false, "ec2.us-east-1.amazonaws.com"),
            ("eu-west-1", false, true, "ec2.eu-west-1.api.aws"),
            ("us-east-2", true, false, "ec2-fips.us-east-2.amazonaws.com"),
            ("us-east-2", true, true, "ec2-fips.us-east-2.api.aws"),
            (
                "us-gov-west-1",
                true,
                false,
                "ec2.us-gov-west-1.amazonaws.com",
            ),
            (
                "cn-north-1",
                false,
                false,
                "ec2.cn-north-1.amazonaws.com.cn",
            ),
            (
                "us-iso-east-1",
                false,
                false,
                "ec2.us-iso-east-1.c2s.ic.gov",
            ),
        ] {
            assert_eq!(
                ec2_host(region, fips, dual_stack),
                format!("https://{host}")
            );
        }
        assert_eq!(partition("us-isob-east-1"), "aws-iso-b");
    }

    #[test]
    fn an_endpoint_said_for_all_services_is_that_of_each() {
        let config = SdkConfig::builder()
            .endpoint_url("http://127.0.0.1:1")
            .build();
        for service in ["EBS", "EC2"] {
            let url = endpoint_url(&config, service);
            assert_eq!(url.as_deref(), Some("http://127.0.0.1:1"));
        }
    }
}
