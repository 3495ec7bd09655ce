-- Why the latest attempt of a job failed; procrastinate itself keeps no reason. The name's prefix
-- gives the application role its rights and keeps the table out of the model comparison, as for
-- the executor's own tables. Created before those, hence no foreign key.
CREATE TABLE procrastinate_job_failures (
    job_id bigint PRIMARY KEY,
    task_name text NOT NULL,
    attempts integer NOT NULL,
    reason text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now()
);
