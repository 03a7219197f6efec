"""A session of boto3 with the server, for serve_aws.rs.

boto3_session.py IMAGE CHILD_IMAGE READ_BACK: uploads IMAGE, and CHILD_IMAGE as its child, as a backup program would;
reads the child into READ_BACK through ListChangedBlocks and GetSnapshotBlock. Prints both ids.
"""

import base64
import hashlib
import sys
import urllib.request

import boto3
import botocore.exceptions

BLOCK = 524288
ZEROS = bytes(BLOCK)

ebs = boto3.client("ebs")
ec2 = boto3.client("ec2")


def blocks_of(path):
    """The blocks of a file that are not zeros, by index."""
    blocks = {}
    with open(path, "rb") as file:
        index = 0
        while data := file.read(BLOCK):
            if data != ZEROS:
                blocks[index] = data
            index += 1
    return blocks


def b64(data):
    return base64.b64encode(data).decode()


def upload(blocks, **start):
    """Starts a snapshot, puts the blocks, completes it, and waits until EC2 says so."""
    started = ebs.start_snapshot(VolumeSize=1, Timeout=60, **start)
    assert started["Status"] == "pending" and started["BlockSize"] == BLOCK, started
    assert started["ResponseMetadata"]["HTTPStatusCode"] == 201
    snapshot = started["SnapshotId"]
    digests = b""
    for number, index in enumerate(sorted(blocks)):
        digest = hashlib.sha256(blocks[index]).digest()
        digests += digest
        put = ebs.put_snapshot_block(
            SnapshotId=snapshot,
            BlockIndex=index,
            BlockData=blocks[index],
            DataLength=BLOCK,
            Checksum=b64(digest),
            ChecksumAlgorithm="SHA256",
            Progress=100 * number // len(blocks),
        )
        assert put["Checksum"] == b64(digest), put
    completed = ebs.complete_snapshot(
        SnapshotId=snapshot,
        ChangedBlocksCount=len(blocks),
        Checksum=b64(hashlib.sha256(digests).digest()),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    assert completed["ResponseMetadata"]["HTTPStatusCode"] == 202
    ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot])
    return started


def pages(action, key, **parameters):
    """All entries of a list, page by page."""
    entries, token = [], {}
    while True:
        page = action(MaxResults=100, **parameters, **token)
        assert page["BlockSize"] == BLOCK and page["VolumeSize"] == 1, page
        entries += page[key]
        if not page.get("NextToken"):
            return entries
        token = {"NextToken": page["NextToken"]}


def get(snapshot, index, token):
    answer = ebs.get_snapshot_block(
        SnapshotId=snapshot, BlockIndex=index, BlockToken=token
    )
    data = answer["BlockData"].read()
    assert answer["DataLength"] == len(data) == BLOCK
    assert answer["Checksum"] == b64(hashlib.sha256(data).digest())
    return data


def refused(code, reason, action, **parameters):
    """The call must fail with that code, and that reason if there is one."""
    try:
        action(**parameters)
    except botocore.exceptions.ClientError as error:
        said = error.response
        assert said["Error"]["Code"] == code, said
        assert said.get("Reason") == reason, said
    else:
        raise AssertionError(f"not refused: {parameters}")


image, child_image, read_back = sys.argv[1:]
old, new = blocks_of(image), blocks_of(child_image)
changed = {i: new.get(i, ZEROS) for i in old.keys() | new.keys() if old.get(i) != new.get(i)}
assert len(old) > 200 and changed, "the images are not worth the test"

tags = [{"Key": "Name", "Value": "boto3 & <co>"}]
parent = upload(old, Description="from boto3", Tags=tags)["SnapshotId"]
started = upload(changed, ParentSnapshotId=parent, ClientToken="once")
child = started["SnapshotId"]
assert started["ParentSnapshotId"] == parent

listed = pages(ebs.list_snapshot_blocks, "Blocks", SnapshotId=parent)
assert [block["BlockIndex"] for block in listed] == sorted(old)
between = pages(
    ebs.list_changed_blocks, "ChangedBlocks", FirstSnapshotId=parent, SecondSnapshotId=child
)
assert [block["BlockIndex"] for block in between] == sorted(changed)
for block in between:
    assert ("FirstBlockToken" in block) == (block["BlockIndex"] in old), block

with open(read_back, "wb") as file:
    file.truncate(1 << 30)
    for block in listed:
        file.seek(block["BlockIndex"] * BLOCK)
        file.write(get(parent, block["BlockIndex"], block["BlockToken"]))
    for block in between:
        file.seek(block["BlockIndex"] * BLOCK)
        file.write(get(child, block["BlockIndex"], block["SecondBlockToken"]))

# Signed in the query, and taken to another program.
first = listed[0]
url = ebs.generate_presigned_url(
    "get_snapshot_block",
    Params={
        "SnapshotId": parent,
        "BlockIndex": first["BlockIndex"],
        "BlockToken": first["BlockToken"],
    },
)
with urllib.request.urlopen(url) as answer:
    assert answer.read() == old[first["BlockIndex"]]

described = ec2.describe_snapshots(Filters=[{"Name": "tag:Name", "Values": ["boto3*"]}])
[only] = described["Snapshots"]
assert only["SnapshotId"] == parent and only["Tags"] == tags, only
assert only["State"] == "completed" and only["Description"] == "from boto3", only

# The waiter waits, and the paginator turns pages.
more = [ebs.start_snapshot(VolumeSize=1)["SnapshotId"] for _ in range(6)]
paginator = ec2.get_paginator("describe_snapshots")
found = [
    [snapshot["SnapshotId"] for snapshot in page["Snapshots"]]
    for page in paginator.paginate(OwnerIds=["self"], PaginationConfig={"PageSize": 5})
]
assert [len(page) for page in found] == [5, 3], found
assert {snapshot for page in found for snapshot in page} == {parent, child, *more}

refused("ConflictException", None, ebs.start_snapshot, VolumeSize=2, ClientToken="once")
refused(
    "ValidationException",
    "INVALID_BLOCK_TOKEN",
    ebs.get_snapshot_block,
    SnapshotId=parent,
    BlockIndex=first["BlockIndex"],
    BlockToken="AAUBAcuWqOCnDNuKle11s7II",
)
refused(
    "ValidationException",
    "INVALID_PARAMETER_VALUE",
    ebs.list_snapshot_blocks,
    SnapshotId=more[0],
)
for snapshot in more:
    ec2.delete_snapshot(SnapshotId=snapshot)
refused("InvalidSnapshot.NotFound", None, ec2.describe_snapshots, SnapshotIds=[more[0]])
refused(
    "ResourceNotFoundException",
    "SNAPSHOT_NOT_FOUND",
    ebs.list_snapshot_blocks,
    SnapshotId=more[0],
)
print(parent, child)
