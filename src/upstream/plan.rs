//! What a gateway's name tells: whose service it is, in which cloud and region, and which way in.
//!
//! Source: the host names in PingCAP's documentation ("Connect via Private Endpoint", "Connect via
//! Public Endpoint"), and the endpoint names of Amazon RDS and ApsaraDB RDS.

use crate::config::Gateway;

/// A service that a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// TiDB Cloud Starter or Essential: a gateway that serves the clusters of a region. Users have a
    /// prefix that tells their cluster.
    Starter,
    /// TiDB Cloud Dedicated: a name for each cluster.
    Dedicated,
    /// Amazon RDS or Aurora.
    AmazonRds,
    /// Alibaba Cloud's ApsaraDB RDS.
    ApsaraDb,
}

/// Whose network it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon Web Services.
    Aws,
    /// Alibaba Cloud.
    Alibaba,
}

/// What the name of a gateway tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The service.
    pub service: Service,
    /// The cloud, where the name has it.
    pub cloud: Option<Cloud>,
    /// The region as that cloud calls it, where the name has it.
    pub region: Option<String>,
    /// Whether it is the name of a private endpoint.
    pub is_private: bool,
}

impl Plan {
    /// Reads a gateway's name; `None` for one that is of no service that is known here.
    pub fn of(gateway: &Gateway) -> Option<Self> {
        let labels: Vec<_> = gateway.host.split('.').collect();
        let is_private = gateway.is_privatelink();
        let plan = |service, cloud, region: Option<&&str>| {
            let region = region.map(|region| (*region).to_owned());
            Some(Self { service, cloud, region, is_private })
        };
        match labels.as_slice() {
            [first, region, "prod", cloud, "tidbcloud", "com"] if first.starts_with("gateway") => {
                plan(Service::Starter, Cloud::of(cloud), Some(region))
            }
            // The domain of an Alibaba Cloud endpoint, whatever is behind it.
            [_, service, region, "privatelink", "aliyuncs", "com"]
                if service.starts_with("epsrv-") =>
            {
                plan(Service::Starter, Some(Cloud::Alibaba), Some(region))
            }
            [_, _, "clusters", "tidb-cloud", "com"] => {
                // Only AWS has private endpoints with names of this form.
                plan(Service::Dedicated, is_private.then_some(Cloud::Aws), None)
            }
            [.., region, "rds", "amazonaws", "com"] if labels.len() > 4 => {
                plan(Service::AmazonRds, Some(Cloud::Aws), Some(region))
            }
            [_, .., "rds", "aliyuncs", "com"] => {
                plan(Service::ApsaraDb, Some(Cloud::Alibaba), None)
            }
            _ => None,
        }
    }
}

impl Cloud {
    fn of(label: &str) -> Option<Self> {
        match label {
            "aws" => Some(Self::Aws),
            "alicloud" => Some(Self::Alibaba),
            _ => None,
        }
    }

    /// Its name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "AWS",
            Self::Alibaba => "Alibaba Cloud",
        }
    }
}

impl Service {
    /// Its name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starter => "TiDB Cloud Starter or Essential",
            Self::Dedicated => "TiDB Cloud Dedicated",
            Self::AmazonRds => "Amazon RDS",
            Self::ApsaraDb => "ApsaraDB RDS",
        }
    }

    /// Whether it is TiDB Cloud's.
    pub fn is_tidb_cloud(self) -> bool {
        matches!(self, Self::Starter | Self::Dedicated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(host: &str) -> Option<Plan> {
        Plan::of(&host.parse().unwrap())
    }

    #[test]
    fn names_tell_service_cloud_region_and_way() {
        let known = [
            (
                "gateway01-privatelink.ap-northeast-1.prod.aws.tidbcloud.com",
                (Service::Starter, Some(Cloud::Aws), Some("ap-northeast-1"), true),
            ),
            (
                "gateway02.us-east-1.prod.aws.tidbcloud.com",
                (Service::Starter, Some(Cloud::Aws), Some("us-east-1"), false),
            ),
            (
                "ep-t4n.epsrv-t4n.ap-southeast-1.privatelink.aliyuncs.com",
                (Service::Starter, Some(Cloud::Alibaba), Some("ap-southeast-1"), true),
            ),
            ("tidb.abc.clusters.tidb-cloud.com", (Service::Dedicated, None, None, false)),
            (
                "privatelink-12.abc.clusters.tidb-cloud.com",
                (Service::Dedicated, Some(Cloud::Aws), None, true),
            ),
            (
                "app.c1a2.eu-west-1.rds.amazonaws.com",
                (Service::AmazonRds, Some(Cloud::Aws), Some("eu-west-1"), false),
            ),
            (
                "rm-abc.mysql.singapore.rds.aliyuncs.com",
                (Service::ApsaraDb, Some(Cloud::Alibaba), None, false),
            ),
        ];
        for (host, (service, cloud, region, is_private)) in known {
            let region = region.map(str::to_owned);
            let expected = Plan { service, cloud, region, is_private };
            assert_eq!(plan(host), Some(expected), "{host}");
        }
    }

    #[test]
    fn other_names_and_literals_tell_nothing() {
        for host in
            ["10.0.0.1", "::1", "db", "db.example.com", "rds.amazonaws.com", "tidbcloud.com"]
        {
            assert_eq!(plan(host), None, "{host}");
        }
    }
}
