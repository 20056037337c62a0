# The stack of ../template.yaml for those who use Terraform. A test compares the two: resources, environment, permissions.

data "aws_caller_identity" "here" {}
data "aws_partition" "here" {}
data "aws_region" "here" {}

locals {
  account   = data.aws_caller_identity.here.account_id
  partition = data.aws_partition.here.partition
  region    = data.aws_region.here.region
  # They call each other, so they know each other by names, not by references.
  function_arns = "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${var.name}"
  queue_arns    = "arn:${local.partition}:sqs:${local.region}:${local.account}:${var.name}"
  alarm_actions = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]

  functions = {
    frontend = "Temporal's API over HTTP"
    history  = "Executions, their events and timers"
    matching = "Task queues and polls"
  }

  database_url = (
    var.database_url_parameter != "" ? "ssm:${var.database_url_parameter}" :
    var.database_url_secret_arn != "" ? "secretsmanager:${var.database_url_secret_arn}" : var.database_url
  )
  database_ca = (
    var.database_ca_parameter != "" ? "ssm:${var.database_ca_parameter}" :
    var.database_ca_secret_arn != "" ? "secretsmanager:${var.database_ca_secret_arn}" : ""
  )
  dynamic_config = var.dynamic_config_parameter != "" ? "ssm:${var.dynamic_config_parameter}" : var.dynamic_config
  concurrency = {
    frontend = var.frontend_concurrency
    history  = var.history_concurrency
    matching = var.matching_concurrency
  }
  api_keys = var.api_keys_secret_arn != "" ? "secretsmanager:${var.api_keys_secret_arn}" : var.api_keys

  # A variable that is null is left out.
  environment_of_all = {
    WHISTLESTOP_LOG_LEVEL       = var.log_level
    WHISTLESTOP_METRICS         = var.metrics
    WHISTLESTOP_TRACING         = var.tracing
    WHISTLESTOP_DATABASE_URL    = local.database_url == "" ? null : local.database_url
    WHISTLESTOP_DSQL_HOST       = local.has_dsql ? local.dsql_host : null
    WHISTLESTOP_DATABASE_HOST   = local.has_aurora ? aws_rds_cluster.aurora[0].endpoint : null
    WHISTLESTOP_DATABASE_SECRET = local.has_aurora && var.database_user == "" ? local.aurora_secret_arn : null
    WHISTLESTOP_DATABASE_USER   = var.database_user
    WHISTLESTOP_DATABASE_TLS    = var.database_tls
    WHISTLESTOP_DATABASE_CA     = local.database_ca == "" ? null : local.database_ca
    WHISTLESTOP_DYNAMIC_CONFIG  = local.dynamic_config == "" ? null : local.dynamic_config
  }

  environment = {
    frontend = {
      WHISTLESTOP_HISTORY_FUNCTION  = "${var.name}-history"
      WHISTLESTOP_MATCHING_FUNCTION = "${var.name}-matching"
      WHISTLESTOP_AUTH_MODE         = var.auth_mode
      WHISTLESTOP_ALLOW_ANONYMOUS   = var.allow_anonymous
      WHISTLESTOP_API_KEYS          = local.api_keys == "" ? null : local.api_keys
      WHISTLESTOP_JWT_JWKS_URL      = var.jwt_jwks_url == "" ? null : var.jwt_jwks_url
      WHISTLESTOP_JWT_ISSUER        = var.jwt_jwks_url == "" ? null : var.jwt_issuer
      WHISTLESTOP_JWT_AUDIENCE      = var.jwt_jwks_url == "" ? null : var.jwt_audience
    }
    history = {
      WHISTLESTOP_MATCHING_FUNCTION         = "${var.name}-matching"
      WHISTLESTOP_WAKE_UP_QUEUE_URL         = aws_sqs_queue.wakes.url
      WHISTLESTOP_WAKE_UP_QUEUE_ARN         = aws_sqs_queue.wakes.arn
      WHISTLESTOP_WAKE_UP_SCHEDULE_GROUP    = aws_scheduler_schedule_group.wakes.name
      WHISTLESTOP_WAKE_UP_ROLE_ARN          = aws_iam_role.scheduler.arn
      WHISTLESTOP_NOTIFICATION_QUEUE_PREFIX = "${var.name}-bridge-"
      WHISTLESTOP_ALLOW_OUTBOUND            = var.allow_outbound

      # The names of release 0.1.0, whose code may run with this environment during an update or a rollback.
      WHISTLESTOP_WAKE_QUEUE_URL      = aws_sqs_queue.wakes.url
      WHISTLESTOP_WAKE_QUEUE_ARN      = aws_sqs_queue.wakes.arn
      WHISTLESTOP_WAKE_SCHEDULE_GROUP = aws_scheduler_schedule_group.wakes.name
      WHISTLESTOP_WAKE_ROLE_ARN       = aws_iam_role.scheduler.arn
      WHISTLESTOP_WORKER_WAKE_PREFIX  = "${var.name}-bridge-"
    }
    matching = {
      WHISTLESTOP_NOTIFICATION_QUEUE_PREFIX = "${var.name}-bridge-"
      WHISTLESTOP_WORKER_WAKE_PREFIX        = "${var.name}-bridge-" # the name of release 0.1.0
      WHISTLESTOP_ALLOW_OUTBOUND            = var.allow_outbound
      WHISTLESTOP_HISTORY_FUNCTION          = "${var.name}-history"
    }
  }
}

resource "aws_lambda_function" "function" {
  for_each = local.functions

  function_name    = "${var.name}-${each.key}"
  description      = each.value
  filename         = "${var.bundles}/${each.key}.zip"
  source_code_hash = filebase64sha256("${var.bundles}/${each.key}.zip")
  handler          = "whistlestop.${each.key}.lambda_function.handler"
  runtime          = var.python_runtime
  architectures    = [var.architecture]
  memory_size      = var.memory_size
  # Calls bound themselves by their callers' deadlines; only a poll or a wait for a result comes near this.
  timeout = 70
  # -1 is the provider's word for no reservation, too.
  reserved_concurrent_executions = local.concurrency[each.key]

  role = aws_iam_role.function[each.key].arn

  environment {
    variables = {
      for key, value in merge(local.environment_of_all, local.environment[each.key]) : key => value if value != null
    }
  }

  logging_config {
    # Lambda's own three lines per invocation would cost as much as the functions: only those of failures are kept.
    log_format       = "JSON"
    system_log_level = "WARN"
    log_group        = aws_cloudwatch_log_group.function[each.key].name
  }

  tracing_config {
    mode = var.tracing
  }

  depends_on = [aws_iam_role_policy.function]
}

resource "aws_cloudwatch_log_group" "function" {
  for_each = local.functions

  name              = "/aws/lambda/${var.name}-${each.key}"
  retention_in_days = var.log_retention_days
}

resource "aws_lambda_function_url" "frontend" {
  function_name      = aws_lambda_function.function["frontend"].function_name
  authorization_type = var.auth_mode

  lifecycle {
    precondition {
      condition = (
        var.auth_mode != "NONE" || var.api_keys_secret_arn != "" || var.api_keys != "" || var.jwt_jwks_url != "" ||
        var.allow_anonymous == "true"
      )
      error_message = "auth_mode NONE takes api_keys_secret_arn, api_keys or jwt_jwks_url, or allow_anonymous = \"true\"."
    }
  }
}

resource "aws_lambda_permission" "open_url" {
  count = var.auth_mode == "NONE" ? 1 : 0

  function_name          = aws_lambda_function.function["frontend"].function_name
  function_url_auth_type = "NONE"
  action                 = "lambda:InvokeFunctionUrl"
  principal              = "*"
}

resource "aws_lambda_permission" "open_function_by_url" {
  count = var.auth_mode == "NONE" ? 1 : 0

  function_name            = aws_lambda_function.function["frontend"].function_name
  invoked_via_function_url = true
  action                   = "lambda:InvokeFunction"
  principal                = "*"
}
