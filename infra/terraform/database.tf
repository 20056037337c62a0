# Taking the module away never takes the data along: a DSQL cluster is protected, an Aurora cluster leaves a snapshot.

locals {
  has_dsql           = var.create_database == "dsql"
  has_aurora         = var.create_database == "aurora-serverless"
  dsql_host          = local.has_dsql ? "${aws_dsql_cluster.database[0].identifier}.dsql.${local.region}.on.aws" : ""
  aurora_secret_arn  = local.has_aurora ? aws_rds_cluster.aurora[0].master_user_secret[0].secret_arn : ""
  aurora_resource_id = local.has_aurora ? aws_rds_cluster.aurora[0].cluster_resource_id : "*"
  urls               = [nonsensitive(var.database_url), var.database_url_parameter, var.database_url_secret_arn]
  places_of_url      = length(compact(local.urls))
}

resource "terraform_data" "one_database" {
  lifecycle {
    precondition {
      condition     = local.places_of_url + (var.create_database == "none" ? 0 : 1) == 1
      error_message = "Give database_url, database_url_parameter or database_url_secret_arn, or have a database created."
    }
    precondition {
      condition     = !local.has_aurora || var.aurora_vpc_id != ""
      error_message = "aurora-serverless takes aurora_vpc_id and aurora_subnet_ids."
    }
    precondition {
      condition     = !local.has_aurora || var.aurora_client_cidr != ""
      error_message = "Say who may connect to the Aurora cluster (aurora_client_cidr); everybody is 0.0.0.0/0."
    }
    precondition {
      condition     = !local.has_aurora || local.database_ca != "" || var.database_tls == "require"
      error_message = "Aurora's certificates are signed by Amazon's own authorities. Give the region's bundle (database_ca_parameter or database_ca_secret_arn), or database_tls = \"require\" to verify nothing."
    }
    precondition {
      condition     = !local.has_dsql || var.database_user == ""
      error_message = "database_user is for RDS and Aurora; to DSQL the functions sign in as admin."
    }
  }
}

resource "aws_dsql_cluster" "database" {
  count = local.has_dsql ? 1 : 0

  deletion_protection_enabled = true
  tags                        = { Name = var.name }
}

resource "aws_rds_cluster" "aurora" {
  count = local.has_aurora ? 1 : 0

  cluster_identifier_prefix   = "${var.name}-"
  engine                      = "aurora-postgresql"
  database_name               = "whistlestop"
  master_username             = "whistlestop"
  manage_master_user_password = true
  storage_encrypted           = true
  copy_tags_to_snapshot       = true

  iam_database_authentication_enabled = true

  db_subnet_group_name      = aws_db_subnet_group.aurora[0].name
  vpc_security_group_ids    = [aws_security_group.aurora[0].id]
  final_snapshot_identifier = "${var.name}-final"

  serverlessv2_scaling_configuration {
    # It pauses when no connection is open: keep sweep_rate well above this.
    min_capacity             = 0
    max_capacity             = var.aurora_max_capacity
    seconds_until_auto_pause = 300
  }
}

resource "aws_rds_cluster_instance" "aurora" {
  count = local.has_aurora ? 1 : 0

  engine              = "aurora-postgresql"
  instance_class      = "db.serverless"
  cluster_identifier  = aws_rds_cluster.aurora[0].id
  publicly_accessible = true
}

resource "aws_db_subnet_group" "aurora" {
  count = local.has_aurora ? 1 : 0

  name_prefix = "${var.name}-"
  description = "Subnets of ${var.name}"
  subnet_ids  = var.aurora_subnet_ids
}

resource "aws_security_group" "aurora" {
  count = local.has_aurora ? 1 : 0

  name_prefix = "${var.name}-"
  description = "Postgres clients of ${var.name}"
  vpc_id      = var.aurora_vpc_id

  ingress {
    protocol    = "tcp"
    from_port   = 5432
    to_port     = 5432
    cidr_blocks = [var.aurora_client_cidr]
    description = "Postgres by TLS"
  }
}
