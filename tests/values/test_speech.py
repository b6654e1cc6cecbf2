"""Speech against literal formulas: spectra, filters, ratios, distances, alignments."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import wavfile

from manyheads import metrics
from manyheads.augment.noise import Noise
from manyheads.data import Taskset
from manyheads.data.columns.audio import Audio
from manyheads.data.formats.wavs import Wavs
from manyheads.encoders.audio import Audio as AudioEncoder
from manyheads.encoders.audio import LogMel, Recurrent
from manyheads.faults import ConfigError, DataError
from manyheads.metrics import Predicted, spoken
from manyheads.metrics.sound import FULL, mel_filters, n_frames, read_wav, resampled, si_sdr, spectrum, waves, write_wav
from manyheads.ragged import Ragged, objects
from manyheads.tasks import speech
from manyheads.tasks.speech import Reconstruction, Transcription

RATE = 8000


def tone(n, hertz, rate=RATE, size=0.4):
    return (size * np.sin(2 * np.pi * hertz * np.arange(n) / rate)).astype(np.float32)


# -- spectra


def test_the_spectrum_is_the_literal_sum(float64):
    wave = torch.randn(3 * 16)
    found = spectrum(wave, 32, 16)
    assert found.shape == (4, 17)
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 32) for n in range(32)]
    padded = np.concatenate([np.zeros(16), wave.numpy(), np.zeros(16)])
    for frame, bin in itertools.product(range(4), range(17)):
        literal = sum(hann[n] * padded[frame * 16 + n] * np.exp(-2j * math.pi * bin * n / 32) for n in range(32))
        assert complex(found[frame, bin]) == pytest.approx(literal, abs=1e-9)


@pytest.mark.parametrize(("window", "hop"), [(32, 16), (64, 16), (96, 16)])
def test_a_mask_of_ones_gives_the_wave_back(window, hop, float64):
    lengths = torch.tensor([5 * hop, 3 * hop - 7, 1])
    longest = int(lengths.max())
    inside = torch.arange(longest) < lengths.unsqueeze(1)
    x = torch.randn(3, longest) * inside
    frames = torch.arange(int(n_frames(longest, hop))) < n_frames(lengths, hop).unsqueeze(1)
    again = waves(spectrum(x, window, hop), frames, hop)
    assert torch.allclose(again[inside], x[inside], atol=1e-12)


def test_mel_filters_are_the_literal_triangles():
    def mel(f):
        return 2595 * math.log10(1 + f / 700)

    def hertz(m):
        return 700 * (10 ** (m / 2595) - 1)

    bands, bins = 7, 65
    step = (mel(4000) - mel(20)) / (bands + 1)
    edges = [hertz(mel(20) + i * step) for i in range(bands + 2)]
    found = mel_filters(bands, bins, RATE)
    for band, bin in itertools.product(range(bands), range(bins)):
        left, centre, right = edges[band : band + 3]
        f = bin * 4000 / (bins - 1)
        slope = (f - left) / (centre - left) if f < centre else (right - f) / (right - centre)
        assert found[bin, band].item() == pytest.approx(max(slope, 0.0), abs=1e-5)
    assert (found.sum(0) > 0).all()


def test_a_tone_is_loudest_in_its_own_band():
    stage = LogMel("audio:x", RATE, 20, 256, 128, "none", {})
    loudest = []
    for hertz in (300, 900, 2500):
        values, mask, _, _ = stage.eval()({"audio:x": Ragged.of([(tone(4000, hertz) * FULL).astype(np.int16)])})
        loudest.append(int(values[0][mask[0]].mean(0).argmax()))
    centres = (mel_filters(20, 129, RATE) * torch.linspace(0, 4000, 129)[:, None]).sum(0)
    centres = centres / mel_filters(20, 129, RATE).sum(0)
    assert loudest == [int((centres - h).abs().argmin()) for h in (300, 900, 2500)]


def test_resampling_keeps_a_tone():
    samples = (tone(22050, 440, 22050) * FULL).astype(np.int16)
    found = resampled(samples, 22050, RATE)
    assert len(found) == RATE
    expected = tone(RATE, 440) * FULL
    assert np.abs(found[200:-200] - expected[200:-200]).max() < 100


# -- the encoder


def test_the_recurrence_is_torchs_own(float64):
    """Forwards and backwards, against torch.nn.GRU on packed rows."""
    ours, theirs = Recurrent(3, 8, 0.0), torch.nn.GRU(3, 4, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for i, way in enumerate(("", "_reverse")):
            getattr(theirs, f"weight_ih_l0{way}").copy_(ours.read[i].T)
            getattr(theirs, f"weight_hh_l0{way}").copy_(ours.keep[i].T)
            getattr(theirs, f"bias_ih_l0{way}").copy_(ours.read_bias[i, 0])
            getattr(theirs, f"bias_hh_l0{way}").copy_(ours.keep_bias[i, 0])
    lengths = torch.tensor([6, 2, 4])
    mask = torch.arange(6) < lengths.unsqueeze(1)
    x = torch.randn(3, 6, 3) * mask.unsqueeze(-1)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    right, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    assert torch.allclose(ours((x, mask))[0], right, atol=1e-12)


def test_masks_fall_on_training_rows_alone():
    stage = LogMel(
        "audio:x", RATE, 20, 256, 128, "level", {"bands": 1, "bands_share": 0.5, "moments": 2, "moments_share": 0.4}
    )
    x = {"audio:x": Ragged.of([torch.randint(-9000, 9000, (n,), dtype=torch.int16) for n in (3000, 900)])}
    plain, mask, heard, lengths = stage.eval()(x)
    torch.manual_seed(0)
    masked = stage.train()(x)[0]
    changed = masked != plain
    assert changed.any()
    assert (masked[changed] == 0).all()
    assert not changed[~mask].any()
    assert torch.equal((heard.flatten(1)[1, : int(lengths[1])] * FULL).round().to(torch.int16), list(x["audio:x"])[1])


@pytest.mark.parametrize("normalise", ["utterance", "level", "running"])
def test_normalised_means_are_0(normalise):
    stage = LogMel("audio:x", RATE, 12, 256, 128, normalise, dict.fromkeys(
        ("bands", "bands_share", "moments", "moments_share"), 0)).train()  # fmt: skip
    x = {"audio:x": Ragged.of([torch.randint(-9000, 9000, (n,), dtype=torch.int16) for n in (6000, 3000)])}
    values, mask, _, _ = stage(x)
    known = values[mask]
    assert known.mean().abs() < 1e-4
    if normalise == "utterance":
        assert (values.sum(1) / mask.sum(1, keepdim=True)).abs().max() < 1e-4
    if normalise == "running":
        assert known.mean(0).abs().max() < 1e-4
        again = stage.eval()(x)[0]
        assert torch.allclose(again, values)


def test_a_louder_recording_sounds_the_same():
    stage = AudioEncoder({"t": {"audio:x": RATE}}, d_hidden=8, bands=12).stages[0].eval()
    quiet = torch.randint(-3000, 3000, (4000,), dtype=torch.int16)
    a, b = (stage({"audio:x": Ragged.of([quiet * k])})[0] for k in (1, 5))
    assert torch.allclose(a, b, atol=0.05)


def test_what_the_encoder_refuses():
    layouts = {"t": {"audio:x": RATE}}
    for settings, match in [
        ({"normalise": "loud"}, "normalise"), ({"d_hidden": 7}, "even"), ({"hop": 0.03}, "hop"),
        ({"column": "y"}, "`y`"), ({"bands_share": 2.0}, "Masks"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            AudioEncoder(layouts, **settings)
    with pytest.raises(ValueError, match="type audio"):
        AudioEncoder({"t": {"numeric": 0}})
    with pytest.raises(ValueError, match="other feature"):
        AudioEncoder({"t": {"numeric": 3, "audio:x": RATE}})


# -- sound made clean


def test_si_sdr_is_the_literal_formula(float64):
    e, s = torch.randn(2, 50), torch.randn(2, 50)
    mask = torch.arange(50) < torch.tensor([[50], [31]])
    found = si_sdr(e, s, mask, eps=0.0)
    for i, n in enumerate((50, 31)):
        a, b = e[i, :n].numpy() - e[i, :n].numpy().mean(), s[i, :n].numpy() - s[i, :n].numpy().mean()
        target = (a @ b) / (b @ b) * b
        literal = 10 * math.log10((target @ target) / ((a - target) @ (a - target)))
        assert found[i].item() == pytest.approx(literal, abs=1e-6)
        assert spoken.sdr(e[i, :n].numpy(), s[i, :n].numpy()) == pytest.approx(literal, abs=1e-6)
    louder = si_sdr(3 * e + 1, s, mask, eps=0.0)
    assert torch.allclose(louder, found, atol=1e-6)


def test_noise_of_10_db_has_10_db(rng):
    s = rng.normal(size=200_000)
    n = rng.normal(size=200_000)
    assert spoken.sdr(s + n / math.sqrt(10), s) == pytest.approx(10, abs=0.1)
    assert spoken.sdr(s, s) == 100
    assert spoken.sdr(0 * s, s) == -100


def test_the_gain_is_the_mean_over_noisy_rows(rng):
    clean = [rng.normal(size=n) for n in (3000, 2000, 500)]
    heard = [clean[0] + rng.normal(size=3000), clean[1] + 0.5 * rng.normal(size=2000), clean[2]]
    made = [clean[0] + 0.3 * rng.normal(size=3000), clean[1] * 2, clean[2] + 0.1 * rng.normal(size=500)]
    own = [spoken.sdr(m, c) - spoken.sdr(h, c) for m, h, c in zip(made, heard, clean, strict=True)]
    assert own[1] > 30
    predicted = Predicted(objects([np.stack(pair) for pair in zip(made, heard, strict=True)]))
    metric = metrics.find("si_sdr_gain")
    assert metric(objects(clean), predicted).value == pytest.approx((own[0] + 30) / 2, abs=1e-9)
    assert metric(objects(clean), predicted, sample_weight=[3, 1, 9]).value == pytest.approx((3 * own[0] + 30) / 4)
    alone = Predicted(objects([np.stack([made[2], clean[2]])]))
    assert metric(objects(clean[2:]), alone) == (None, "All heard is clean.")
    assert metric.skill(15.0) == 0.5


@pytest.mark.parametrize("mask", ["magnitude", "complex"])
@pytest.mark.parametrize("loss", ["si_sdr", "spectral"])
def test_a_sound_head_learns_one_recording(mask, loss):
    torch.manual_seed(0)
    clean = [tone(n, h) for n, h in ((3000, 500), (2500, 900))]
    rng = np.random.default_rng(0)
    noisy = [c + rng.normal(size=len(c)).astype(np.float32) * 0.2 for c in clean]
    task = Reconstruction("clean", rate=RATE, mask=mask, loss=loss, d_head=16)
    target, known = task.encode(pd.DataFrame({"clean": objects(clean)}))
    x = {"audio:x": Ragged.of([(n * FULL * 0.9).astype(np.int16) for n in noisy])}
    encoder = AudioEncoder({"t": {"audio:x": RATE}}, d_hidden=16, bands=12, n_layers=0, halvings=2, dropout=0.0)
    head = task.head([encoder.widths[-1]])
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)

    def output():
        z = x
        for stage in encoder.eval().stages:
            z = stage(z)
        return head(z)

    def gained():
        return metrics.find("si_sdr_gain")(task.truth(target), task.predict(task.rows(output()))).value

    before = gained()
    assert abs(before) < 1.5
    for _ in range(40):
        optimizer.zero_grad()
        task.mean_loss(output(), target, known).backward()
        optimizer.step()
    assert gained() > before + 4


def test_the_spectral_error_is_0_at_the_truth_and_1_at_silence():
    task = Reconstruction("c", rate=RATE, loss="spectral")
    target, _ = task.encode(pd.DataFrame({"c": objects([tone(1000, 500), tone(700, 300)])}))
    clean, mask = target.padded()
    clean = clean / FULL
    output = torch.stack([clean, clean, mask.float()], 1)
    assert torch.allclose(task.errors(output, target), torch.zeros(2), atol=1e-6)
    output[:, 0] = 0
    assert torch.allclose(task.errors(output, target), torch.ones(2), atol=1e-6)


def test_recordings_of_other_lengths_and_silent_ones_are_refused():
    task = Reconstruction("c", rate=RATE)
    target, _ = task.encode(pd.DataFrame({"c": objects([tone(1000, 500), tone(700, 300)])}))
    output = torch.ones(2, 3, 1000)
    with pytest.raises(DataError, match=r"`c`.*700\s+and 1000"):
        task.errors(output, target)
    with pytest.raises(DataError, match=r"silence, in row 1"):
        task.encode(pd.DataFrame({"c": objects([tone(100, 500), np.zeros(100, np.int16)])}))
    with pytest.raises(ConfigError, match="`rate`"):
        Reconstruction("c").fitted(pd.DataFrame({"c": objects([tone(100, 500)])}))
    with pytest.raises(ConfigError, match="`mask`"):
        Reconstruction("c", mask="phase")


def test_files_hold_what_was_made():
    task = Reconstruction("c", rate=RATE)
    made = np.stack([tone(100, 500), tone(100, 700)])
    ((name, content),) = task.files(Predicted(objects([made])), ["a"], pd.DataFrame(index=[0]))
    assert name == "a.wav"
    rate, samples = read_wav(content)
    assert rate == RATE
    assert np.abs(samples / FULL - made[0]).max() < 1e-4
    quieter = task.columns(Predicted(objects([np.stack([0.1 * made[0], made[0]])])))["c__quieter_db"]
    assert quieter == pytest.approx([20.0], abs=1e-5)


# -- distances and decoding


def _slow_edits(a, b):
    table = [[max(i, j) if not min(i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            )  # fmt: skip
    return table[-1][-1]


def test_edits_are_the_literal_table(rng):
    for _ in range(200):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 8))) for _ in range(2))
        assert spoken.edits(a, b) == _slow_edits(a, b), (a, b)


def test_error_rates_are_edits_over_what_was_said(rng):
    said = ["one two three", "four", "", "five five"]
    heard = ["one three", "four four", "six", "five five"]
    words, chars = metrics.find("word_error_rate"), metrics.find("char_error_rate")
    p = Predicted(objects(heard))
    assert words(objects(said), p).value == pytest.approx((1 + 1 + 1 + 0) / (3 + 1 + 0 + 2))
    literal = sum(_slow_edits(a, b) for a, b in zip(said, heard, strict=True)) / sum(map(len, said))
    assert chars(objects(said), p).value == pytest.approx(literal)
    assert words(objects(said), p, sample_weight=[2, 0, 0, 1]).value == pytest.approx(2 / 8)
    assert words(objects([""]), Predicted(objects(["six"]))) == (None, "No word was said.")
    silent = Predicted(objects([""] * 4))
    assert words(objects(said), silent).value == 1


def _collapsed(path):
    return tuple(unit for unit, _ in itertools.groupby(path) if unit)


def _every_text(p):
    """text -> probability, over every path."""
    found = {}
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        text = _collapsed(path)
        found[text] = found.get(text, 0.0) + math.prod(p[t, u] for t, u in enumerate(path))
    return found


def test_the_ctc_error_is_the_sum_over_all_paths(rng):
    task = Transcription("t", vocabulary=("a", "b"))
    logits = torch.from_numpy(rng.normal(size=(4, 5, 4)))
    frames = [5, 4, 5, 2]
    mask = torch.arange(5) < torch.tensor(frames).unsqueeze(1)
    texts = [(1, 2), (2, 2), (), (1,)]
    target = Ragged.of([np.array(t, dtype=np.int64) for t in texts])
    found = task.errors(torch.cat([mask.unsqueeze(-1), logits], -1), target)
    for i, text in enumerate(texts):
        p = logits[i, : frames[i]].softmax(-1).numpy()
        assert found[i].item() == pytest.approx(-math.log(_every_text(p)[text]), rel=1e-6)
    assert task.sizes(target).tolist() == [2, 2, 1, 1]


def test_a_beam_that_is_wide_finds_the_likeliest_text(rng):
    better = 0
    for _ in range(30):
        p = torch.from_numpy(rng.normal(size=(5, 3)) * 1.5).softmax(-1).numpy()
        texts = _every_text(p)
        best = max(texts, key=texts.get)
        assert tuple(spoken.beam(np.log(p), 200)) == best
        (greedy,) = spoken.greedy(np.log(p)[None], [5])
        assert tuple(greedy) == _collapsed(p.argmax(1))
        better += texts[best] > texts[tuple(greedy)]
    assert better


def test_decoding_ignores_padding_and_joins_units():
    for beam in (0, 4):
        task = Transcription("t", vocabulary=("one", "two"), beam=beam)
        path = [1, 1, 0, 1, 2, 0, 2, 2]
        logits = torch.nn.functional.one_hot(torch.tensor([path]), 4) * 30.0
        mask = (torch.arange(8) < 6).float().reshape(1, 8, 1)
        assert task.rows(torch.cat([mask, logits], -1)).items == ["one one two"]
    task = Transcription("t", units="characters", vocabulary=(" ", "a", "b"))
    labels = pd.DataFrame({"t": ["a  b", None, "", "az"]})
    target, known = task.encode(labels)
    assert known.tolist() == [True, False, True, True]
    assert list(task.truth(target)) == ["a b", "", "", "a" + speech.UNKNOWN]


def test_a_text_that_is_too_long_teaches_nothing_and_is_told_once():
    speech._TOLD.clear()
    task = Transcription("t", vocabulary=("a", "b"))
    target = Ragged.of([torch.tensor([1, 1]), torch.tensor([1])])
    output = torch.cat([torch.ones(2, 2, 1), torch.randn(2, 2, 4)], -1).requires_grad_()
    with pytest.warns(UserWarning, match=r"`t`.*1 of 2 rows.*2 units in 2 frames"):
        errors = task.errors(output, target)
    errors.sum().backward()
    assert errors[0] == 0
    assert errors[1] > 0
    assert (output.grad[0] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.errors(output, target)
    with pytest.raises(DataError, match="not empty"):
        Transcription("t").fitted(pd.DataFrame({"t": ["", None]}))
    with pytest.raises(ConfigError, match="words or characters"):
        Transcription("t", units="phones")


# -- columns and folders


def _folder(path, rate=RATE):
    rng = np.random.default_rng(0)
    for digit, speaker, index in itertools.product(range(3), ("ann", "bob"), range(4)):
        wave = tone(int(rng.integers(300, 900)), 300 + 200 * digit, rate) * (1 + (speaker == "bob"))
        (path / f"{digit}_{speaker}_{index}.wav").write_bytes(write_wav(wave, rate))
    return path


def test_a_column_of_recordings(tmp_path):
    folder = _folder(tmp_path)
    name = "0_ann_0.wav"
    samples = read_wav(folder / name)[1]
    (tmp_path / "stereo.wav").write_bytes(b"")
    wavfile.write(tmp_path / "stereo.wav", 2 * RATE, np.stack([samples, samples], 1))
    series = pd.Series([name, str(folder / name), (folder / name).read_bytes(), samples, samples / FULL, "stereo.wav"])
    column = Audio.fit("x", series, root=str(tmp_path))
    assert (column.rate, column.layout) == (RATE, RATE)
    found = list(column.transform(series))
    assert all(np.array_equal(row, samples) for row in found[:5])
    assert abs(len(found[5]) - len(samples) / 2) <= 1
    assert Audio.from_json(column.to_json()) == column
    with pytest.raises(ConfigError, match="`rate`"):
        Audio.fit("x", pd.Series([samples]))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("cut.wav", lambda b: b[:-100], "cut short"),
        ("odd.wav", lambda b: b[:-101], "cut short"),
        ("head.wav", lambda b: b[:30], "cut short"),
        ("text.wav", lambda b: b"hello, I am a text", "damaged"),
        ("none.wav", lambda b: None, "nothing there"),
        ("empty.wav", lambda b: write_wav(np.zeros(0, np.int16), RATE), "no sample"),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_recordings_that_cannot_be_read_are_refused_by_name(tmp_path, name, content, found, as_bytes):
    good = write_wav(tone(500, 400), RATE)
    if (bad := content(good)) is not None:
        (tmp_path / name).write_bytes(bad)
    elif as_bytes:
        pytest.skip("no bytes")
    cells = pd.Series([good, bad if as_bytes else str(tmp_path / name)])
    with pytest.raises(DataError, match=rf"{'' if as_bytes else name}.*`x`.*{found}.*row 1"):
        Audio("x", RATE).transform(cells)


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (None, "nothing"), (np.zeros(0, np.int16), "no sample"), (np.array([0.0, np.nan]), "finite"),
        (np.array([0.0, 1.5]), "beyond 1"), ([1, 40000], "16 bits"), (np.array(["a"]), "type"),
        (np.zeros((2, 2, 2)), "shape"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_recording_are_refused(cell, found):
    with pytest.raises(DataError, match=found):
        Audio("x", RATE).transform(pd.Series(objects([cell])))


def _wavs(**settings):
    return Wavs(pattern="{digit}_{speaker}_{index}", test={"index": 0}, valid={"index": "1-1"}, **settings)


def test_a_folder_of_recordings(tmp_path):
    table = _wavs().frame(_folder(tmp_path))
    assert list(table.columns) == ["audio", "digit", "speaker", "index", "split"]
    assert table["split"].value_counts().to_dict() == {"train": 12, "valid": 6, "test": 6}
    assert (table.loc[table["index"] == 0, "split"] == "test").all()
    (tmp_path / "readme.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"readme\.wav"):
        _wavs().frame(tmp_path)
    skipping = _wavs(on_error="skip")
    assert len(skipping.frame(tmp_path)) == 24
    assert len(skipping.skipped) == 1


def test_strings_are_recordings_of_one_speaker_and_one_part(tmp_path):
    folder = _folder(tmp_path)
    settings = {"by": "speaker", "n": [2, 3], "passes": {"train": 5}, "gap": [0.01, 0.02]}
    make = _wavs(transcript="digit", words={0: "zero", 1: "one", 2: "two"}, strings=settings)
    table = make.frame(folder)
    assert table.equals(make.frame(folder))
    for row in table.itertuples():
        files = row.made_of.split()
        words = {"0": "zero", "1": "one", "2": "two"}
        assert row.transcript == " ".join(words[f[0]] for f in files)
        assert {f.split("_")[1] for f in files} == {row.speaker}
        index = {int(f.rsplit("_", 1)[1]) for f in files}
        assert index <= {"test": {0}, "valid": {1}, "train": {2, 3}}[row.split]
        parts = [read_wav(folder / f"{f}.wav")[1] for f in files]
        whole = read_wav(row.audio)[1]
        silence = len(whole) - sum(map(len, parts))
        assert 80 * (len(parts) - 1) <= silence <= 160 * (len(parts) - 1)
        assert np.array_equal(whole[: len(parts[0])], parts[0])
        assert np.array_equal(whole[-len(parts[-1]) :], parts[-1])
    used = [f for row in table[table["split"] == "train"].itertuples() for f in row.made_of.split()]
    assert max(map(used.count, used)) <= 5


def test_noise_has_the_ratio_it_says_and_never_comes_from_another_part(tmp_path):
    folder = _folder(tmp_path)
    table = _wavs(noise=["none", "white", "babble"], snr=[0, 10]).frame(folder)
    assert set(table["noise"]) == {"none", "white", "babble"}
    for row in table.itertuples():
        heard, clean = (read_wav(cell)[1].astype(float) for cell in (row.audio, row.clean))
        if row.noise == "none":
            assert np.array_equal(heard, clean)
            assert math.isnan(row.snr)
            continue
        ratio = 10 * math.log10((clean**2).sum() / ((heard - clean) ** 2).sum())
        assert ratio == pytest.approx(row.snr, abs=0.1)
        assert 0 <= row.snr <= 10
    test = table["split"] == "test"
    for file in folder.glob("*_[23].wav"):  # training recordings become something else: the test part stays
        file.write_bytes(write_wav(tone(400, 3000), RATE))
    again = _wavs(noise=["none", "white", "babble"], snr=[0, 10]).frame(folder)
    assert again[test].equals(table[test])
    assert not again["audio"].equals(table["audio"])


def test_what_a_folder_refuses(tmp_path):
    folder = _folder(tmp_path)
    for settings, match in [
        ({"pattern": "name"}, "pattern"), ({"noise": ["pink"]}, "noise"), ({"snr": [5, 0]}, "snr"),
        ({"strings": {"by": "name"}}, "transcript"), ({"transcript": "said"}, "`said`"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=match):
            Wavs(**settings)
    with pytest.raises(ConfigError, match="none where"):
        Wavs(pattern="{digit}_{speaker}_{index}", test={"index": 99}).frame(folder)
    (folder / "0_ann_0.wav").write_bytes((folder / "0_ann_0.wav").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"0_ann_0\.wav.*cut short"):
        _wavs(noise=["white"]).frame(folder)
    (folder / "0_ann_0.wav").write_bytes(write_wav(tone(400, 300), 16000))
    with pytest.raises(DataError, match="per second"):
        _wavs(noise=["white"]).frame(folder)


# -- noise in training


@pytest.mark.parametrize("kind", ["white", "babble"])
def test_training_noise_has_the_ratio_that_was_asked(kind):
    rows = Ragged.of([torch.from_numpy((tone(n, h) * FULL * 0.3).astype(np.int16)) for n, h in
                      ((4000, 400), (3000, 900), (3500, 1500))])  # fmt: skip
    change = Noise(share=1.0, kinds=(kind,), snr=(6, 6))
    found = change(Taskset({"audio:x": rows}, ()), {}, torch.Generator().manual_seed(1)).inputs["audio:x"]
    assert found.values.dtype == torch.int16
    assert torch.equal(found.lengths, rows.lengths)
    for before, after in zip(rows, found, strict=True):
        b, a = before.double().numpy(), after.double().numpy()
        assert 10 * math.log10((b @ b) / ((a - b) @ (a - b))) == pytest.approx(6, abs=0.1)
    untouched = Noise(share=0.0)(Taskset({"audio:x": rows}, ()), {}, torch.Generator().manual_seed(1))
    assert torch.equal(untouched.inputs["audio:x"].values, rows.values)


def test_what_training_noise_refuses():
    for settings in ({"kinds": ["pink"]}, {"share": 2}, {"snr": (3, 1)}, {"voices": 0}):
        with pytest.raises(ValueError, match="should be"):
            Noise(**settings)
