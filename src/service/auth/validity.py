"""The validity of API keys after their request was authenticated, for replies that take long."""

SELECT_VALID_KEYS = """
select id from api_keys
where id = any($1::text[]) and revoked_at is null and (expires_at is null or expires_at > now())"""
