//! Where this host is, if it is Amazon's: asked of the metadata service of EC2, whose answers are
//! compared with the region in the gateway's name.
//!
//! Nothing is sent to the service's address where the firmware does not say that there is one: another
//! cloud may have something else there.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hyper::Method;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::address::CONNECT;
use super::case::Deadline;
use super::finding::{Finding, Status};
use super::http::ask;
use crate::upstream::plan::{Cloud, Plan};

/// Where EC2 has the service.
const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(169, 254, 169, 254), 80);
/// It is next door, or does not answer at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// What the firmware of a host says, and of which vendor it is on EC2.
const FIRMWARE: &str = "/sys/class/dmi/id";
const VENDOR: &str = "Amazon EC2";

/// This host, as EC2 knows it; asked once.
#[derive(Debug)]
pub(super) struct Instance {
    service: Result<SocketAddr, String>,
    deadline: Deadline,
    told: OnceCell<Result<Whereabouts, String>>,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whereabouts {
    region: String,
    /// By its name, which is another one in each account.
    zone: Option<String>,
    /// By what is the same in all of them.
    zone_id: Option<String>,
    /// What the clock of the service said, and this host's at that moment.
    pub clocks: Option<[SystemTime; 2]>,
}

impl Instance {
    /// Decides whether there is somebody to ask. With `service` that is asked.
    pub fn find(service: Option<SocketAddr>, deadline: Deadline) -> Self {
        let service = match service {
            Some(service) => Ok(service),
            None => match vendor(Path::new(FIRMWARE)) {
                Ok(()) => Ok(SERVICE.into()),
                Err(other) => Err(format!("this host is not on EC2 ({other})")),
            },
        };
        Self { service, deadline, told: OnceCell::new() }
    }

    /// Where it is, or why that is not known.
    pub async fn whereabouts(&self) -> Result<&Whereabouts, &str> {
        let told = self.told.get_or_init(|| async {
            let service = self.service.clone()?;
            let within = self.deadline.within(PATIENCE);
            let asked = timeout(within * 2, whereabouts(service, within)).await;
            let asked = asked.unwrap_or_else(|_| Err("it is slow to answer".into()));
            asked.map_err(|error| format!("the metadata service at {service}: {error}"))
        });
        told.await.as_ref().map_err(String::as_str)
    }
}

/// Whether the firmware is EC2's; if not, whose it is. Xen instances have Xen's own vendor, and Amazon
/// in the version.
fn vendor(firmware: &Path) -> Result<(), String> {
    let read = |name: &str| {
        let text = fs::read_to_string(firmware.join(name)).unwrap_or_default();
        text.trim().to_owned()
    };
    let is_amazons = |name: &&str| read(name) == VENDOR;
    if ["sys_vendor", "board_vendor", "bios_vendor"].iter().any(is_amazons)
        || read("bios_version").to_ascii_lowercase().contains("amazon")
    {
        return Ok(());
    }
    match read("sys_vendor") {
        vendor if vendor.is_empty() => Err("its firmware names no vendor".into()),
        vendor => Err(format!("its vendor is {vendor}")),
    }
}

async fn whereabouts(service: SocketAddr, within: Duration) -> Result<Whereabouts, String> {
    const TOKEN: &str = "/latest/api/token";
    const LIFETIME: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let token = ask(service, Method::PUT, TOKEN, Some(LIFETIME), within).await?;
    if token.status != 200 {
        return Err(format!("it gives no token, but answers {}", token.status));
    }
    let clocks = token.date.map(|date| [date, SystemTime::now()]);
    let token = token.body.trim().to_owned();
    let get = async |path: &'static str| {
        let header = Some(("x-aws-ec2-metadata-token", token.as_str()));
        let reply = ask(service, Method::GET, path, header, within).await?;
        let word = reply.body.trim().to_owned();
        let is_word = !word.is_empty() && word.len() <= 64 && !word.contains(char::is_whitespace);
        match reply.status {
            200 if is_word => Ok(word),
            200 => Err(format!("{path} has no word in it")),
            status => Err(format!("{path} answers {status}")),
        }
    };
    let region = get("/latest/meta-data/placement/region").await?;
    Ok(Whereabouts {
        region,
        zone: get("/latest/meta-data/placement/availability-zone").await.ok(),
        zone_id: get("/latest/meta-data/placement/availability-zone-id").await.ok(),
        clocks,
    })
}

/// Compares with what the names of the upstreams tell, and with whether their addresses were reached.
pub(super) async fn examine(
    instance: &Instance,
    plans: &[(String, Option<Plan>)],
    found: &[Finding],
) -> Vec<Finding> {
    let here = instance.whereabouts().await;
    let of_upstream = |(upstream, plan): &(String, Option<Plan>)| {
        let is_reached = found.iter().any(|finding| {
            finding.check == CONNECT
                && finding.status == Status::Ok
                && finding.upstream.as_ref() == Some(upstream)
        });
        let finding = match here {
            Ok(here) => region(here, plan.as_ref(), is_reached),
            Err(why) => Finding::skip("aws.region", why),
        };
        Finding { upstream: Some(upstream.clone()), ..finding }
    };
    let mut findings: Vec<_> = plans.iter().map(of_upstream).collect();
    findings.push(match here {
        Ok(here) => zone(here),
        Err(why) => Finding::skip("aws.zone", why),
    });
    findings
}

fn region(here: &Whereabouts, plan: Option<&Plan>, is_reached: bool) -> Finding {
    const CHECK: &str = "aws.region";
    let own = &here.region;
    let plan = plan.filter(|plan| plan.cloud == Some(Cloud::Aws));
    match plan.and_then(|plan| Some((plan, plan.region.as_deref()?))) {
        None => Finding::ok(CHECK, format!("this host is in {own}; the gateway's name tells no region")),
        Some((_, region)) if region == own => {
            Finding::ok(CHECK, format!("this host is in {own}, as the gateway"))
        }
        Some((plan, region)) if plan.is_private && !is_reached => Finding::fail(
            CHECK,
            "region_mismatch",
            format!("this host is in {own}, the gateway in {region}"),
        )
        .likely(
            "the gateway of another region: a private endpoint is in the region of its service, and \
             is not reached from others",
        )
        .hint(format!(
            "use the gateway of {own}, if the cluster is there; else run tidegate in {region}, or \
             peer a VPC of {region} that has the endpoint"
        )),
        Some((_, region)) => Finding::warn(
            CHECK,
            "other_region",
            format!("this host is in {own}, the gateway in {region}"),
        )
        .likely("each round trip crosses regions")
        .hint(format!("run tidegate in {region}")),
    }
}

fn zone(here: &Whereabouts) -> Finding {
    let name = here.zone.as_deref().map(|zone| format!(" ({zone} in this account)"));
    match &here.zone_id {
        None => Finding::skip("aws.zone", "the metadata service does not tell the zone's id"),
        Some(id) => Finding::ok(
            "aws.zone",
            format!(
                "this host is in {id}{}; the endpoint's subnets must be in zones whose ids the \
                 endpoint service has, which need not be this one",
                name.unwrap_or_default()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(region: &str) -> Whereabouts {
        let zone_id = Some("apne1-az4".into());
        Whereabouts { region: region.into(), zone: None, zone_id, clocks: None }
    }

    fn plan(host: &str) -> Option<Plan> {
        Plan::of(&host.parse().unwrap())
    }

    #[test]
    fn a_private_gateway_of_another_region_is_broken_and_a_public_one_is_far() {
        let private = plan("gateway01-privatelink.ap-northeast-1.prod.aws.tidbcloud.com");
        let public = plan("gateway01.ap-northeast-1.prod.aws.tidbcloud.com");
        let causes = |region, plan: &Option<Plan>| {
            [false, true]
                .map(|is_reached| super::region(&here(region), plan.as_ref(), is_reached).cause)
        };
        let far = Some("other_region");
        assert_eq!(causes("ap-northeast-1", &private), [None; 2]);
        // By a peered VPC it is reached all the same.
        assert_eq!(causes("us-east-1", &private), [Some("region_mismatch"), far]);
        assert_eq!(causes("us-east-1", &public), [far; 2]);
        assert_eq!(causes("us-east-1", &plan("db.example.com")), [None; 2]);
    }

    #[test]
    fn only_amazons_firmware_is_amazons() {
        let firmware = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(firmware.path().join(name), text).unwrap();
        assert_eq!(vendor(firmware.path()), Err("its firmware names no vendor".into()));
        put("sys_vendor", "QEMU\n");
        assert_eq!(vendor(firmware.path()), Err("its vendor is QEMU".into()));
        put("sys_vendor", "Xen\n");
        put("bios_version", "4.11.amazon\n");
        assert_eq!(vendor(firmware.path()), Ok(()));
        put("bios_version", "1.0\n");
        put("board_vendor", "Amazon EC2\n");
        assert_eq!(vendor(firmware.path()), Ok(()));
    }
}
