"""The service as a library: the seed's verbs, and what it takes them for."""

import json
from pathlib import Path

import pytest

from packets import OUTPUT_SSRC, opus_tone, rtp_packet, rtp_stream
from twotrack import AudioCacheService, AudioChunk, AudioFormat, AudioType, StorageType, oggopus
from twotrack.errors import MediaError, RequestError, SpoolError


async def test_recording_by_the_seeds_verbs(tmp_path: Path) -> None:
    """Packets given by hand and two clean-ups leave one recording, of both sides."""
    async with await AudioCacheService.create(StorageType.LOCAL, str(tmp_path)) as cache:
        for datagram in rtp_stream(opus_tone(440, 20)):
            cache.cache_audio_rtp("call", AudioType.WHATSAPP_INPUT, AudioFormat.OPUS, datagram)
        for datagram in rtp_stream(opus_tone(600, 20), ssrc=OUTPUT_SSRC):
            cache.cache_audio_rtp("call", AudioType.AI_OUTPUT, AudioFormat.OPUS, datagram)
        cache.cleanup_connection("call")
        assert not list(tmp_path.glob("*.opus"))
        cache.cleanup_connection("call")
    report = json.loads((tmp_path / "conversation_call.json").read_text())
    assert (report["input"]["received"], report["output"]["received"]) == (20, 20)
    assert (tmp_path / "conversation_call_merged.opus").exists()


async def test_calls_of_one_ssrc_are_told_apart_by_their_id(tmp_path: Path) -> None:
    """As a library the connection is named with each packet, so that SSRCs may be alike."""
    async with await AudioCacheService.create(StorageType.LOCAL, tmp_path) as cache:
        for connection_id in ("one", "two"):
            for datagram in rtp_stream(opus_tone(440, 5)):
                cache.cache_audio_rtp(connection_id, AudioType.WHATSAPP_INPUT, AudioFormat.OPUS, datagram)
        calls = {call.connection_id: call.received for call in cache.register}
        assert [received["input"] for received in calls.values()] == [5, 5]


async def test_open_calls_go_on_with_the_next_service(tmp_path: Path) -> None:
    """What is not closed when a service ends goes on with the next one at the same place."""
    datagrams = rtp_stream(opus_tone(440, 20))
    for half in (datagrams[:10], datagrams[10:]):
        async with await AudioCacheService.create(StorageType.LOCAL, tmp_path) as cache:
            for datagram in half:
                cache.cache_audio_rtp("call", AudioType.WHATSAPP_INPUT, AudioFormat.OPUS, datagram)
            if half is not datagrams[:10] and half[-1] == datagrams[-1]:
                cache.cleanup_connection("call")
                cache.cleanup_connection("call")
    report = json.loads((tmp_path / "conversation_call.json").read_text())
    assert (report["input"]["received"], report["input"]["lost"]) == (20, 0)


async def test_garbage_is_counted(tmp_path: Path) -> None:
    """What is no RTP packet is counted and dropped."""
    async with await AudioCacheService.create(StorageType.LOCAL, tmp_path) as cache:
        for garbage in (b"", b"\x80", bytes(100), b"\x80\xc9" + bytes(30)):
            cache.cache_audio_rtp("call", AudioType.WHATSAPP_INPUT, AudioFormat.OPUS, garbage)
        assert cache.status()["dropped"]["input"] == {"too_short": 2, "bad_version": 1, "rtcp": 1}
        assert list(cache.register) == []


async def test_bad_names_are_refused(tmp_path: Path) -> None:
    """A bad connection id, audio type or format is refused at once."""
    async with await AudioCacheService.create(StorageType.LOCAL, tmp_path) as cache:
        with pytest.raises(RequestError):
            cache.cache_audio_rtp("../x", AudioType.WHATSAPP_INPUT, AudioFormat.OPUS, rtp_packet())
        with pytest.raises(ValueError, match="sideways"):
            cache.cache_audio_rtp("call", "sideways", AudioFormat.OPUS, rtp_packet())
        with pytest.raises(ValueError, match="mp3"):
            cache.cache_audio_rtp("call", AudioType.AI_OUTPUT, "mp3", rtp_packet())


async def test_two_services_do_not_share_a_place(tmp_path: Path) -> None:
    """A second service at the same place is refused, in one sentence."""
    async with await AudioCacheService.create(StorageType.LOCAL, tmp_path):
        with pytest.raises(SpoolError, match="another twotrack uses the state directory"):
            await AudioCacheService.create(StorageType.LOCAL, tmp_path)


async def test_ogg_opus_file_of_chunks(tmp_path: Path) -> None:
    """`create_ogg_opus_file` makes a mono file of packets, whose losses it fills."""
    packets = opus_tone(440, 10)
    datagrams = rtp_stream(packets, sequence_number=65_530, timestamp=2**32 - 3_000)
    async with await AudioCacheService.create(StorageType.LOCAL, tmp_path) as cache:
        _, stored, samples = oggopus.read_audio(cache.create_ogg_opus_file(datagrams))
        assert stored[:10] == packets
        assert samples == 9_600
        chunks = [AudioChunk(datagram, 5 + number * 0.02) for number, datagram in enumerate(datagrams) if number != 4]
        _, stored, samples = oggopus.read_audio(cache.create_ogg_opus_file(chunks))
        assert stored[4] == packets[3][:1]
        assert samples == 9_600
        with pytest.raises(MediaError):
            cache.create_ogg_opus_file([])
