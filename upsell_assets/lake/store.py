"""The object store: one S3 bucket, for raw files and for the Delta tables beside them.

Here: credentials (the default AWS chain with refresh, static keys only if given), listing, reading and writing
of whole objects, and the options that Delta readers need. Not here: what a key means (`raw`, `capture`) or how
a table is read (`lake.tables`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import md5
from typing import TYPE_CHECKING

import boto3
import pyarrow.fs as pafs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

from upsell_assets.errors import PermanentError, RetryableError, UpsellError

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

    from upsell_assets.settings import Settings

_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "Forbidden"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of one object; `modified` is in UTC, `size` in bytes, `etag` without quotes."""

    key: str
    etag: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class ObjectStore:
    """One bucket.

    Every method raises PermanentError where the store refuses the key or the bucket, RetryableError where it
    cannot be reached.
    """

    bucket: str
    region: str
    endpoint: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> ObjectStore:
        """The store that the settings name (of an embedded one, after it was started)."""
        secret, token = settings.s3_secret_access_key, settings.s3_session_token
        return cls(
            bucket=settings.bucket,
            region=settings.s3_region,
            endpoint=settings.s3_endpoint,
            access_key_id=settings.s3_access_key_id,
            secret_access_key=secret.get_secret_value() if secret else None,
            session_token=token.get_secret_value() if token else None,
        )

    @cached_property
    def _session(self) -> boto3.Session:
        return boto3.Session(
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            aws_session_token=self.session_token,
            region_name=self.region,
        )

    @cached_property
    def client(self) -> S3Client:
        """The S3 client; its credentials refresh themselves."""
        return self._session.client(
            "s3",
            endpoint_url=self.endpoint,
            config=Config(
                retries={"mode": "standard", "max_attempts": 4},
                connect_timeout=5,
                read_timeout=60,
                s3={"addressing_style": "path" if self.endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def _credentials(self) -> ReadOnlyCredentials:
        try:
            if found := self._session.get_credentials():
                return found.get_frozen_credentials()
            raise NoCredentialsError
        except BotoCoreError as error:
            raise self._error("read credentials", error) from error

    def delta_options(self) -> dict[str, str]:
        """Options for delta-rs, with the credentials of this moment; take them anew for each opening."""
        credentials = self._credentials()
        options = {
            "aws_region": self.region,
            "aws_access_key_id": credentials.access_key or "",
            "aws_secret_access_key": credentials.secret_key or "",
            "aws_conditional_put": "etag",
            "aws_checksum_algorithm": "sha256",
        }
        if credentials.token:
            options["aws_session_token"] = credentials.token
        if self.endpoint:
            options["aws_endpoint"] = self.endpoint
            options["aws_allow_http"] = str(self.endpoint.startswith("http://")).lower()
            options["aws_virtual_hosted_style_request"] = "false"
        return options

    def arrow_files(self) -> pafs.FileSystem:
        """The bucket as Arrow's own filesystem, with the credentials of this moment."""
        credentials = self._credentials()
        scheme, _, address = (self.endpoint or "").rpartition("://")
        s3 = pafs.S3FileSystem(
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.token,
            region=self.region,
            endpoint_override=address or None,
            scheme=scheme or "https",
            connect_timeout=5,
            request_timeout=60,
        )
        return pafs.SubTreeFileSystem(self.bucket, s3)

    def uri(self, path: str) -> str:
        """The `s3://` address of a path in the bucket."""
        return f"s3://{self.bucket}/{path}"

    def check(self) -> None:
        """Fail with a clear line unless the bucket can be listed."""
        try:
            self.client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except (ClientError, BotoCoreError) as error:
            raise self._error("list", error) from error

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[StoredObject]:
        """Objects whose key begins with `prefix`, in the order of their keys (folder markers left out)."""
        for page in self._pages(prefix, StartAfter=start_after):
            yield from _objects(page)

    def list_level(self, prefix: str) -> Iterator[StoredObject]:
        """Objects directly below `prefix` (which ends with a slash), not those in its folders."""
        for page in self._pages(prefix, Delimiter="/"):
            yield from _objects(page)

    def folders(self, prefix: str) -> Sequence[str]:
        """Names of the folders directly below `prefix` (which ends with a slash)."""
        return [
            found["Prefix"][len(prefix) : -1]
            for page in self._pages(prefix, Delimiter="/")
            for found in page.get("CommonPrefixes", [])
        ]

    def _pages(self, prefix: str, **asked: str) -> Iterator[ListObjectsV2OutputTypeDef]:
        try:
            pages = self.client.get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self.bucket, Prefix=prefix, **asked)  # type: ignore[arg-type]
        except (ClientError, BotoCoreError) as error:
            raise self._error(f"list {prefix}", error) from error

    def read(self, key: str, *, etag: str | None = None) -> bytes:
        """An object's bytes; with `etag`, those bytes and no newer ones.

        Raises:
            FileNotFoundError: there is no such object, or it is not that version any more.
        """
        condition = {"IfMatch": etag} if etag else {}
        try:
            body = self.client.get_object(Bucket=self.bucket, Key=key, **condition)["Body"]  # type: ignore[arg-type]
            return body.read()
        except ClientError as error:
            if error.response["Error"]["Code"] in _ABSENT | {"412", "PreconditionFailed"}:
                raise FileNotFoundError(f"{self.uri(key)} is gone, or was replaced since it was listed") from error
            raise self._error(f"read {key}", error) from error
        except BotoCoreError as error:
            raise self._error(f"read {key}", error) from error

    def write(self, key: str, body: bytes) -> str:
        """Write an object whole (or not at all) and return its etag."""
        # With a checksum: without one some servers keep an empty object when the client dies at the wrong moment.
        digest = b64encode(md5(body, usedforsecurity=False).digest()).decode()
        try:
            return self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentMD5=digest)["ETag"].strip('"')
        except (ClientError, BotoCoreError) as error:
            raise self._error(f"write {key}", error) from error

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        try:
            self.client.delete_object(Bucket=self.bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise self._error(f"delete {key}", error) from error

    def _error(self, action: str, error: ClientError | BotoCoreError) -> UpsellError:
        where = f"object store {self.endpoint or 'AWS'}, bucket {self.bucket!r}"
        if isinstance(error, ClientError):
            code = error.response["Error"].get("Code", "")
            if code in _REFUSED:
                return PermanentError(
                    f"{where}: refused the key when asked to {action} ({code}). Check UPSELL_S3_ACCESS_KEY_ID and "
                    "UPSELL_S3_SECRET_ACCESS_KEY, or the AWS profile or role, and the bucket's policy."
                )
            if code == "NoSuchBucket":
                return PermanentError(f"{where}: there is no such bucket. Create it, or correct UPSELL_S3_BUCKET.")
            return RetryableError(f"{where}: could not {action} ({code or error}).")
        if isinstance(error, NoCredentialsError | ProfileNotFound):
            return PermanentError(
                f"{where}: no credentials found ({error}). Set UPSELL_S3_ACCESS_KEY_ID and UPSELL_S3_SECRET_ACCESS_KEY, or "
                "give the process an AWS profile or role."
            )
        return RetryableError(f"{where}: could not {action} ({error}). Is UPSELL_S3_ENDPOINT right and running?")


def _objects(page: ListObjectsV2OutputTypeDef) -> Iterator[StoredObject]:
    for found in page.get("Contents", []):
        if not found["Key"].endswith("/"):
            yield StoredObject(found["Key"], found["ETag"].strip('"'), found["Size"], found["LastModified"])
