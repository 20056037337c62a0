locals {
  # Of each function's role; those whose resources are empty are left out.
  statements_of_all = [
    { actions = ["dsql:DbConnectAdmin"], resources = local.has_dsql ? [aws_dsql_cluster.database[0].arn] : [] },
    {
      actions   = ["secretsmanager:GetSecretValue"]
      resources = local.has_aurora && var.database_user == "" ? [local.aurora_secret_arn] : []
    },
    {
      actions = ["rds-db:connect"]
      resources = var.database_user == "" ? [] : [
        "arn:${local.partition}:rds-db:${local.region}:${local.account}:dbuser:${local.aurora_resource_id}/${var.database_user}"
      ]
    },
    {
      actions = ["ssm:GetParameter"]
      resources = var.database_ca_parameter == "" ? [] : [
        "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter${var.database_ca_parameter}"
      ]
    },
    { actions = ["secretsmanager:GetSecretValue"], resources = compact([var.database_ca_secret_arn]) },
    {
      actions = ["ssm:GetParameter"]
      resources = var.dynamic_config_parameter == "" ? [] : [
        "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter${var.dynamic_config_parameter}"
      ]
    },
    {
      actions = ["ssm:GetParameter"]
      resources = var.database_url_parameter == "" ? [] : [
        "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter${var.database_url_parameter}"
      ]
    },
    { actions = ["secretsmanager:GetSecretValue"], resources = compact([var.database_url_secret_arn]) },
    # X-Ray knows no resources for these.
    {
      actions   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
      resources = var.tracing == "Active" ? ["*"] : []
    },
  ]

  statements = {
    frontend = [
      { actions = ["secretsmanager:GetSecretValue"], resources = compact([var.api_keys_secret_arn]) },
      { actions = ["lambda:InvokeFunction"], resources = ["${local.function_arns}-history", "${local.function_arns}-matching"] },
    ]
    history = [
      { actions = ["lambda:InvokeFunction"], resources = ["${local.function_arns}-matching"] },
      {
        actions   = ["sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
        resources = [aws_sqs_queue.wakes.arn]
      },
      { actions = ["sqs:SendMessage"], resources = ["${local.queue_arns}-bridge-*"] },
      {
        actions = ["scheduler:CreateSchedule"]
        resources = [
          "arn:${local.partition}:scheduler:${local.region}:${local.account}:schedule/${aws_scheduler_schedule_group.wakes.name}/*"
        ]
      },
      { actions = ["iam:PassRole"], resources = [aws_iam_role.scheduler.arn] },
    ]
    matching = [
      { actions = ["lambda:InvokeFunction"], resources = var.worker_function_arns },
      { actions = ["sts:AssumeRole"], resources = var.worker_role_arns },
      { actions = ["lambda:InvokeFunction"], resources = ["${local.function_arns}-history"] },
    ]
  }

  # What a statement asks of the request besides.
  conditions = {
    "iam:PassRole" = { StringEquals = { "iam:PassedToService" = "scheduler.amazonaws.com" } }
  }
}

resource "aws_iam_role" "function" {
  for_each = local.functions

  name_prefix = "${substr(var.name, 0, 24)}-${each.key}-"

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "lambda.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "function" {
  for_each = local.functions

  name = "serve"
  role = aws_iam_role.function[each.key].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.function[each.key].arn}:*"]
      }],
      [
        for statement in concat(local.statements_of_all, local.statements[each.key]) : {
          for key, value in {
            Effect    = "Allow"
            Action    = statement.actions
            Resource  = statement.resources
            Condition = try(local.conditions[statement.actions[0]], null)
          } : key => value if value != null
        } if length(statement.resources) > 0
      ],
    )
  })
}

resource "aws_iam_role" "scheduler" {
  name_prefix = "${substr(var.name, 0, 24)}-scheduler-"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "scheduler" {
  name = "wake"
  role = aws_iam_role.scheduler.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = ["sqs:SendMessage"], Resource = [aws_sqs_queue.wakes.arn] },
      {
        Effect   = "Allow"
        Action   = ["lambda:InvokeFunction"]
        Resource = ["${local.function_arns}-frontend", "${local.function_arns}-history"]
      },
    ]
  })
}

resource "aws_iam_policy" "worker" {
  name_prefix = "${var.name}-worker-"
  description = "For whoever runs workers, to call the frontend by a bridge that makes its own wake queue"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["lambda:InvokeFunctionUrl", "lambda:InvokeFunction"]
        Resource = [aws_lambda_function.function["frontend"].arn]
      },
      {
        Effect = "Allow"
        Action = [
          "sqs:CreateQueue", "sqs:DeleteMessage", "sqs:DeleteQueue", "sqs:GetQueueAttributes", "sqs:ReceiveMessage",
          "sqs:SetQueueAttributes"
        ]
        Resource = ["${local.queue_arns}-bridge-*"]
      },
      # It has no resource to name; only names are listed.
      { Effect = "Allow", Action = ["sqs:ListQueues"], Resource = ["*"] },
    ]
  })
}
