//! The private endpoint of a TiDB Cloud gateway in a VPC of AWS, as calls of its command line.

use super::set_up::{File, Leg, SetUp, SetUpError, Unknown, listed, script};
use crate::config::Config;
use crate::upstream::plan::{Cloud, Plan, Service};

/// Renders it for the gateway of a listener.
pub fn render(config: &Config, listener: Option<&str>) -> Result<SetUp, SetUpError> {
    let leg = Leg::one(Leg::all(config, listener)?, |leg| leg.upstream.gateway.clone())?;
    let endpoint = Endpoint::of(&leg)?;
    let mut unknown = vec![VPC, SUBNETS, endpoint.service_name(), CLIENTS];
    if endpoint.region.is_none() {
        unknown.push(REGION);
    }
    let gateway = &leg.upstream.gateway;
    let region =
        endpoint.region.as_ref().map(|region| format!("REGION={region}\n")).unwrap_or_default();
    let (ask, ready) = match endpoint.service {
        Service::Dedicated => ("--no-private-dns-enabled", ACCEPT),
        _ => ("--private-dns-enabled", ""),
    };
    let text = format!(
        "{}{region}GATEWAY={}\nPORT={}\n{CHECKS}{CREATE}  {ask} \\\n{CREATED}{ready}{WAIT}\n{}",
        script(&endpoint.title(), &unknown),
        gateway.host,
        gateway.port,
        listed("#", &unknown)
    );
    Ok(SetUp(vec![File { name: "vpc-endpoint.sh", text }]))
}

/// What is connected to.
struct Endpoint {
    gateway: String,
    service: Service,
    region: Option<String>,
    is_private: bool,
}

impl Endpoint {
    fn of(leg: &Leg<'_>) -> Result<Self, SetUpError> {
        let gateway = leg.upstream.gateway.to_string();
        match leg.plan.clone() {
            Some(Plan {
                service: service @ Service::Starter,
                cloud: Some(Cloud::Aws),
                region,
                is_private,
            }) => Ok(Self { gateway, service, region, is_private }),
            // The public name tells no cloud; the script looks at the name of the service.
            Some(Plan { service: service @ Service::Dedicated, region, is_private, .. }) => {
                Ok(Self { gateway, service, region, is_private })
            }
            plan => Err(SetUpError::NotAws { gateway, what: what(plan) }),
        }
    }

    fn title(&self) -> String {
        let Self { gateway, service, region, is_private } = self;
        let region = region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
        let mut title = format!(
            "The private endpoint of {}{region}, on AWS, for\n{gateway}.\n\n",
            service.as_str()
        );
        title += match service {
            Service::Dedicated => DEDICATED,
            _ => STARTER,
        };
        if !is_private {
            title += PUBLIC;
        }
        title
    }

    fn service_name(&self) -> Unknown {
        let whence = match self.service {
            Service::Dedicated => {
                "com.amazonaws.vpce.REGION.vpce-svc-ID: in TiDB Cloud, the cluster, Settings > Networking >\n\
                 Create Private Endpoint Connection"
            }
            _ => {
                "com.amazonaws.vpce.REGION.vpce-svc-ID: in TiDB Cloud, the cluster, Connect > Private Endpoint"
            }
        };
        ("SERVICE_NAME", whence)
    }
}

/// What a name that is not AWS's tells.
fn what(plan: Option<Plan>) -> String {
    let Some(Plan { service, cloud, .. }) = plan else {
        return "of no service that is known".into();
    };
    match cloud {
        Some(cloud @ Cloud::Alibaba) => format!("{} on {}", service.as_str(), cloud.as_str()),
        _ => service.as_str().into(),
    }
}

const STARTER: &str = "\
One endpoint in a VPC serves all clusters of the region. \"private-dns-enabled cannot be set because there
is already a conflicting DNS domain\" means that the VPC has it already. Where Authorized Networks of
a cluster has rules (Settings > Networking), the endpoint has to be among them.";
const DEDICATED: &str = "\
Each cluster has its own. TiDB Cloud accepts it when it is told the endpoint's id; before that AWS refuses
its private DNS name.";
const PUBLIC: &str = "
The configuration has the public name: the private one, which is said at the end, has to take its place.";

const VPC: Unknown = ("VPC_ID", "vpc-ID, the VPC that tidegate runs in: `aws ec2 describe-vpcs`");
const SUBNETS: Unknown = (
    "SUBNET_IDS",
    "subnet-ID of that VPC, or several between spaces, in zones that the service has:\n\
     `aws ec2 describe-subnets`",
);
const CLIENTS: Unknown =
    ("CLIENT_SECURITY_GROUP_ID", "sg-ID of the host that tidegate runs on, which is let in");
const REGION: Unknown =
    ("REGION", "the cluster's region, such as us-east-1; the VPC has to be in it");

const CHECKS: &str = r#"
case "$SERVICE_NAME" in
  com.amazonaws.vpce."$REGION".*) ;;
  *)
    echo "SERVICE_NAME is no endpoint service of AWS in $REGION, and other regions are out of reach" >&2
    exit 1
    ;;
esac

# Zones are compared by their ids (use1-az1): their names (us-east-1a) mean others in other accounts.
service() {
  aws ec2 describe-vpc-endpoint-services --region "$REGION" --service-names "$SERVICE_NAME" \
    --query "ServiceDetails[0].$1" --output text
}
offered=$(service 'AvailabilityZoneIds')
offered=$(echo "$offered" | tr '\t' ' ')
# shellcheck disable=SC2086 # several are meant
zones=$(aws ec2 describe-subnets --region "$REGION" --subnet-ids $SUBNET_IDS \
  --query 'Subnets[].AvailabilityZoneId' --output text)
for zone in $zones; do
  case " $offered " in
    *" $zone "*) ;;
    ' None ') echo "check by hand that the service has zone $zone: this aws does not say" >&2 ;;
    *)
      echo "a subnet is in zone $zone, the service has only $offered" >&2
      exit 1
      ;;
  esac
done

# A private DNS name is answered only in a VPC with both of these.
aws ec2 modify-vpc-attribute --region "$REGION" --vpc-id "$VPC_ID" --enable-dns-support '{"Value": true}'
aws ec2 modify-vpc-attribute --region "$REGION" --vpc-id "$VPC_ID" --enable-dns-hostnames '{"Value": true}'
"#;

const CREATE: &str = r#"
# The endpoint lets in whom its security group lets in; the default one of the VPC only its own members.
SECURITY_GROUP_ID=$(aws ec2 create-security-group --region "$REGION" --vpc-id "$VPC_ID" \
  --group-name "tidegate-$GATEWAY" --description 'From tidegate to its gateway' \
  --query GroupId --output text)
aws ec2 authorize-security-group-ingress --region "$REGION" --group-id "$SECURITY_GROUP_ID" \
  --protocol tcp --port "$PORT" --source-group "$CLIENT_SECURITY_GROUP_ID"

# shellcheck disable=SC2086 # several are meant
ENDPOINT_ID=$(aws ec2 create-vpc-endpoint --region "$REGION" --vpc-id "$VPC_ID" \
  --vpc-endpoint-type Interface --service-name "$SERVICE_NAME" --subnet-ids $SUBNET_IDS \
  --security-group-ids "$SECURITY_GROUP_ID" \
"#;

const CREATED: &str = r#"  --query VpcEndpoint.VpcEndpointId --output text) || {
  # So that this can be run again.
  aws ec2 delete-security-group --region "$REGION" --group-id "$SECURITY_GROUP_ID" >&2
  exit 1
}
echo "made endpoint $ENDPOINT_ID"

wait_until_available() {
  while :; do
    state=$(aws ec2 describe-vpc-endpoints --region "$REGION" --vpc-endpoint-ids "$ENDPOINT_ID" \
      --query 'VpcEndpoints[0].State' --output text)
    case "$state" in
      [Aa]vailable) break ;;
      [Pp]ending*) sleep 10 ;;
      *)
        echo "endpoint $ENDPOINT_ID is $state" >&2
        exit 1
        ;;
    esac
  done
}
"#;

const ACCEPT: &str = r#"
echo "Enter $ENDPOINT_ID in TiDB Cloud (Create Private Endpoint Connection); this goes on when it is accepted."
wait_until_available
aws ec2 modify-vpc-endpoint --region "$REGION" --vpc-endpoint-id "$ENDPOINT_ID" --private-dns-enabled
"#;

const WAIT: &str = r#"wait_until_available

name=$(service 'PrivateDnsName')
echo "endpoint $ENDPOINT_ID is available; the gateway in this VPC is $name, port $PORT"
if [ "$name" != "$GATEWAY" ]; then
  echo "tidegate's configuration has $GATEWAY instead" >&2
fi
"#;
