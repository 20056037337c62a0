variable "name" {
  description = "Resources are named by it."
  type        = string
  default     = "whistlestop"
}

variable "bundles" {
  description = "The folder with frontend.zip, history.zip and matching.zip (python -m infra.bundle --zip)."
  type        = string
}

variable "database_url" {
  description = "postgresql://user:password@host:port/name of a database that exists. It stands in the environment of the functions; the two ways below keep it out of there."
  type        = string
  default     = ""
  sensitive   = true
}

variable "database_url_parameter" {
  description = "The parameter of Systems Manager that holds the URL, with its leading slash. May be a SecureString of the key aws/ssm."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|/[A-Za-z0-9_.\\-/]+)$", var.database_url_parameter))
    error_message = "It has to match the pattern."
  }
}

variable "database_url_secret_arn" {
  description = "The secret of Secrets Manager that holds the URL."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|arn:.+:secretsmanager:.+)$", var.database_url_secret_arn))
    error_message = "It has to match the pattern."
  }
}

variable "database_user" {
  description = "The role of the database (RDS, Aurora) that the functions sign in as, by tokens of IAM that hold for 15 minutes instead of a password. `whistlestop db role` makes one that owns its schema and nothing else."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[a-z0-9_]*$", var.database_user))
    error_message = "It has to match the pattern."
  }
}

variable "database_tls" {
  description = "What is asked of the database's certificate, where the URL does not say it (sslmode)."
  type        = string
  default     = "verify-full"

  validation {
    condition     = contains(["verify-full", "verify-ca", "require"], var.database_tls)
    error_message = "One of verify-full, verify-ca, require."
  }
}

variable "database_ca_parameter" {
  description = "The parameter of Systems Manager that holds the authorities of the database's certificate, in PEM. For RDS and Aurora, the bundle of the region. Whom the system trusts if both are empty."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|/[A-Za-z0-9_.\\-/]+)$", var.database_ca_parameter))
    error_message = "It has to match the pattern."
  }
}

variable "database_ca_secret_arn" {
  description = "The same, in a secret of Secrets Manager."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|arn:.+:secretsmanager:.+)$", var.database_ca_secret_arn))
    error_message = "It has to match the pattern."
  }
}

variable "create_database" {
  description = "Create an Aurora DSQL cluster, or an Aurora Serverless v2 cluster that pauses, with the stack."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "dsql", "aurora-serverless"], var.create_database)
    error_message = "One of none, dsql, aurora-serverless."
  }
}

variable "aurora_vpc_id" {
  description = "For aurora-serverless, a VPC with an internet gateway."
  type        = string
  default     = ""
}

variable "aurora_subnet_ids" {
  description = "For aurora-serverless, public subnets of it in two zones or more."
  type        = list(string)
  default     = []
}

variable "aurora_client_cidr" {
  description = "For aurora-serverless, who may connect. Functions outside a VPC have no fixed addresses, so they need 0.0.0.0/0; whoever reaches the port then still needs a password or a token."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|[0-9.]+/[0-9]+)$", var.aurora_client_cidr))
    error_message = "It has to match the pattern."
  }
}

variable "aurora_max_capacity" {
  description = "For aurora-serverless, the most capacity units."
  type        = number
  default     = 4

  validation {
    condition     = var.aurora_max_capacity >= 1 && var.aurora_max_capacity <= 256
    error_message = "From 1 to 256."
  }
}

variable "python_runtime" {
  description = "The bundles must be built for the same (WHISTLESTOP_RUNTIME)."
  type        = string
  default     = "python3.13"

  validation {
    condition     = contains(["python3.11", "python3.12", "python3.13"], var.python_runtime)
    error_message = "One of python3.11, python3.12, python3.13."
  }
}

variable "architecture" {
  description = "The bundles must be built for the same (WHISTLESTOP_ARCHITECTURE)."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "One of arm64, x86_64."
  }
}

variable "memory_size" {
  description = "Megabytes per function; the share of CPU grows with it."
  type        = number
  default     = 512

  validation {
    condition     = var.memory_size >= 256 && var.memory_size <= 10240
    error_message = "From 256 to 10240."
  }
}

variable "frontend_concurrency" {
  description = "Instances of the frontend at most, reserved for it. -1 for no limit but the account's."
  type        = number
  default     = -1
}

variable "history_concurrency" {
  description = "The same of history. Each instance has one connection to the database."
  type        = number
  default     = -1
}

variable "matching_concurrency" {
  description = "The same of matching."
  type        = number
  default     = -1
}

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 14

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "One of 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731."
  }
}

variable "log_level" {
  description = "Of the functions' logs."
  type        = string
  default     = "INFO"

  validation {
    condition     = contains(["DEBUG", "INFO", "WARNING", "ERROR"], var.log_level)
    error_message = "One of DEBUG, INFO, WARNING, ERROR."
  }
}

variable "metrics" {
  description = "Write what is counted to the logs in CloudWatch's embedded format. Each metric costs by the month."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "on"], var.metrics)
    error_message = "One of off, on."
  }
}

variable "tracing" {
  description = "Active sends traces to X-Ray, with subsegments for storage and calls between the functions."
  type        = string
  default     = "PassThrough"

  validation {
    condition     = contains(["PassThrough", "Active"], var.tracing)
    error_message = "One of PassThrough, Active."
  }
}

variable "auth_mode" {
  description = "Who may call the Function URL. NONE takes API keys, a JwtJwksUrl, or AllowAnonymous."
  type        = string
  default     = "AWS_IAM"

  validation {
    condition     = contains(["AWS_IAM", "NONE"], var.auth_mode)
    error_message = "One of AWS_IAM, NONE."
  }
}

variable "api_keys_secret_arn" {
  description = "Callers need an API key of this secret, which `whistlestop key --api-keys secretsmanager:ARN` keeps."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|arn:.+:secretsmanager:.+)$", var.api_keys_secret_arn))
    error_message = "It has to match the pattern."
  }
}

variable "api_keys" {
  description = "The same, the document itself instead of a secret. It holds hashes, and no secret."
  type        = string
  default     = ""
}

variable "jwt_jwks_url" {
  description = "Callers may show a JWT instead, signed by a key that its issuer publishes here."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|https://.+)$", var.jwt_jwks_url))
    error_message = "It has to match the pattern."
  }
}

variable "jwt_issuer" {
  description = "The issuer that JWTs must name; any if empty."
  type        = string
  default     = ""
}

variable "jwt_audience" {
  description = "The audience that JWTs must name; any if empty."
  type        = string
  default     = ""
}

variable "allow_anonymous" {
  description = "With AuthMode NONE and neither keys nor JWT, serve everybody who knows the URL. For trials."
  type        = string
  default     = "false"

  validation {
    condition     = contains(["false", "true"], var.allow_anonymous)
    error_message = "One of false, true."
  }
}

variable "sweep_rate" {
  description = "How often history looks for what no wake reported. It is how late a timer can be after a lost wake."
  type        = string
  default     = "rate(15 minutes)"

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.sweep_rate))
    error_message = "It has to match the pattern."
  }
}

variable "housekeeping_rate" {
  description = "How often the frontend finishes the deletion of namespaces."
  type        = string
  default     = "rate(1 day)"

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.housekeeping_rate))
    error_message = "It has to match the pattern."
  }
}

variable "worker_function_arns" {
  description = "Functions that may be invoked to work (aws-lambda in compute configs). A star at the end stands for the builds of a deployment, or for versions and aliases."
  type        = list(string)
  default     = []
}

variable "worker_role_arns" {
  description = "Roles that may be assumed to invoke workers, where compute configs name one."
  type        = list(string)
  default     = []
}

variable "allow_outbound" {
  description = "Addresses, networks and hosts, with spaces between, that callbacks, webhooks and Nexus endpoints may reach although they are not public."
  type        = string
  default     = ""
}

variable "alarm_topic_arn" {
  description = "An SNS topic that alarms are sent to; none if empty."
  type        = string
  default     = ""
}

variable "dynamic_config" {
  description = "Temporal's dynamic configuration as JSON, such as {\"limit.maxIDLength\":[{\"value\":255}]}."
  type        = string
  default     = ""

  validation {
    condition     = length(var.dynamic_config) <= 2000
    error_message = "It has to be 2000 characters at most."
  }
}

variable "dynamic_config_parameter" {
  description = "The parameter of Systems Manager that contains the dynamic configuration, if it is long or changes often. Functions read it when they start."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^(|/[A-Za-z0-9_.\\-/]+)$", var.dynamic_config_parameter))
    error_message = "It has to match the pattern."
  }
}
