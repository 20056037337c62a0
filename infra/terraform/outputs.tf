output "endpoint" {
  description = "Where workers and clients call"
  value       = aws_lambda_function_url.frontend.function_url
}

output "frontend_function_arn" {
  description = "For callers' policies (lambda:InvokeFunctionUrl and lambda:InvokeFunction)"
  value       = aws_lambda_function.function["frontend"].arn
}

output "worker_policy_arn" {
  description = "To be attached to the role of whoever runs workers"
  value       = aws_iam_policy.worker.arn
}

output "history_function_name" {
  value = aws_lambda_function.function["history"].function_name
}

output "matching_function_name" {
  value = aws_lambda_function.function["matching"].function_name
}

output "wake_queue_url" {
  value = aws_sqs_queue.wakes.url
}

output "wake_schedule_group" {
  value = aws_scheduler_schedule_group.wakes.name
}

output "database_host" {
  description = "Of the database that the module created"
  value       = local.has_dsql ? local.dsql_host : local.has_aurora ? aws_rds_cluster.aurora[0].endpoint : "none"
}

output "database_secret" {
  description = "Of the database that the module created, where it has a password"
  value       = local.has_aurora ? local.aurora_secret_arn : "none"
}
