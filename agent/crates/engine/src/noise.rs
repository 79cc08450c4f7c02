//! The handshake: Noise IKpsk2 by `snow`, over primitives of AWS-LC and our own entropy.
//!
//! `snow` asks a resolver for its primitives. Ours draws ephemeral keys from [`Entropy`], because
//! a user-space generator is cloned with the machine's memory (rule 12), and knows this node's
//! static key beforehand, so that no handshake computes its public half again.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyCompressedBin};
use aws_lc_rs::{constant_time, digest};
use snow::params::{BaseChoice, CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use zeroize::{Zeroize, Zeroizing};

use crate::entropy::Entropy;
use crate::state::Suite;

/// The PSK's place in the pattern name (`psk2`).
const PSK_PLACE: u8 = 2;
/// An INIT or RESP without header and MACs is shorter than this.
const MAX_MESSAGE: usize = 128;
const KEY_LEN: usize = 32;
const GCM_TAG_LEN: usize = 16;

/// A key pair on a suite's curve.
pub(crate) struct StaticKey {
    pub(crate) suite: Suite,
    private: Zeroizing<[u8; KEY_LEN]>,
    public: Vec<u8>,
    parsed: PrivateKey,
}

impl StaticKey {
    /// `None` if the octets are no private key of the curve.
    pub(crate) fn new(suite: Suite, private: &[u8; KEY_LEN]) -> Option<Self> {
        let parsed = PrivateKey::from_private_key(curve(suite), private).ok()?;
        let public = parsed.compute_public_key().ok()?;
        let public = match suite {
            Suite::X25519 => public.as_ref().to_vec(),
            Suite::P256 => {
                let compressed: EcPublicKeyCompressedBin<'_> = public.as_be_bytes().ok()?;
                compressed.as_ref().to_vec()
            }
        };
        Some(Self {
            suite,
            private: Zeroizing::new(*private),
            public,
            parsed,
        })
    }

    /// The public half, as it is on the wire.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }
}

fn curve(suite: Suite) -> &'static agreement::Algorithm {
    match suite {
        Suite::X25519 => &agreement::X25519,
        Suite::P256 => &agreement::ECDH_P256,
    }
}

/// The length of a suite's public keys.
pub(crate) const fn public_len(suite: Suite) -> usize {
    match suite {
        Suite::X25519 => 32,
        Suite::P256 => 33,
    }
}

/// What both sides of a handshake bring.
pub(crate) struct Party<'a> {
    pub(crate) key: &'a Arc<StaticKey>,
    pub(crate) psk: &'a [u8; KEY_LEN],
    pub(crate) prologue: &'a [u8],
    pub(crate) entropy: &'a Arc<dyn Entropy>,
}

/// The two keys of a session, from one side's view.
pub(crate) struct SessionKeys {
    pub(crate) seal: Zeroizing<[u8; KEY_LEN]>,
    pub(crate) open: Zeroizing<[u8; KEY_LEN]>,
}

/// An INIT that waits for its RESP.
pub(crate) struct Initiated(Wiped);

/// An INIT that was read, and waits for us to answer.
pub(crate) struct Received {
    state: Wiped,
    /// The initiator's static key.
    pub(crate) remote: Vec<u8>,
    /// INIT's payload.
    pub(crate) payload: [u8; 24],
}

impl Initiated {
    /// Makes the first message and appends it to `out`.
    pub(crate) fn new(
        party: &Party<'_>,
        remote: &[u8],
        payload: &[u8; 24],
        out: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        let builder = builder(party)?.remote_public_key(remote)?;
        let mut state = Wiped(builder.build_initiator()?);
        let mut message = [0; MAX_MESSAGE];
        let len = state.0.write_message(payload, &mut message)?;
        out.extend_from_slice(&message[..len]);
        Ok(Self(state))
    }

    /// Reads the second message. A message that fails leaves the state as it was, so that a
    /// forged RESP can't take the place of the real one.
    pub(crate) fn finish(&mut self, message: &[u8]) -> Result<([u8; 8], SessionKeys), Error> {
        let mut payload = [0; MAX_MESSAGE];
        let len = self.0.0.read_message(message, &mut payload)?;
        let payload = payload[..len].try_into().map_err(|_| Error::Input)?;
        Ok((payload, split(&mut self.0.0, true)))
    }
}

impl Received {
    /// Reads the first message.
    pub(crate) fn new(party: &Party<'_>, message: &[u8]) -> Result<Self, Error> {
        let mut state = Wiped(builder(party)?.build_responder()?);
        let mut payload = [0; MAX_MESSAGE];
        let len = state.0.read_message(message, &mut payload)?;
        let payload = payload[..len].try_into().map_err(|_| Error::Input)?;
        let remote = state.0.get_remote_static().ok_or(Error::Input)?.to_vec();
        Ok(Self {
            state,
            remote,
            payload,
        })
    }

    /// Makes the second message and appends it to `out`.
    pub(crate) fn answer(
        mut self,
        payload: &[u8; 8],
        out: &mut Vec<u8>,
    ) -> Result<SessionKeys, Error> {
        let mut message = [0; MAX_MESSAGE];
        let len = self.state.0.write_message(payload, &mut message)?;
        out.extend_from_slice(&message[..len]);
        Ok(split(&mut self.state.0, false))
    }
}

fn builder<'a>(party: &Party<'a>) -> Result<Builder<'a>, Error> {
    let resolver = Primitives {
        key: Arc::clone(party.key),
        entropy: Arc::clone(party.entropy),
    };
    Builder::with_resolver(params(party.key.suite), Box::new(resolver))
        .local_private_key(party.key.private.as_ref())?
        .prologue(party.prologue)?
        .psk(PSK_PLACE, party.psk)
}

fn split(state: &mut HandshakeState, initiator: bool) -> SessionKeys {
    let (mut first, mut second) = state.dangerously_get_raw_split();
    let (seal, open) = if initiator {
        (&first, &second)
    } else {
        (&second, &first)
    };
    let keys = SessionKeys {
        seal: Zeroizing::new(*seal),
        open: Zeroizing::new(*open),
    };
    first.zeroize();
    second.zeroize();
    keys
}

fn params(suite: Suite) -> NoiseParams {
    let name = match suite {
        Suite::X25519 => "Noise_IKpsk2_25519_AESGCM_SHA256",
        Suite::P256 => "Noise_IKpsk2_P256_AESGCM_SHA256",
    };
    NoiseParams::new(
        name.to_owned(),
        BaseChoice::Noise,
        "IKpsk2".parse().expect("snow knows IKpsk2"),
        // The choice only selects in the resolver, and ours goes by the suite of the static key;
        // snow's own value for P-256 would bring in a second implementation of the curve.
        DHChoice::Curve25519,
        CipherChoice::AESGCM,
        HashChoice::SHA256,
    )
}

/// A handshake state whose memory is overwritten when it is dropped: `snow` doesn't clear the
/// chaining key, from which the session keys follow.
struct Wiped(HandshakeState);

impl Drop for Wiped {
    fn drop(&mut self) {
        if let Ok(blank) = blank_state() {
            self.0 = blank;
            // Keeps the compiler from leaving the overwriting out.
            std::hint::black_box(&mut self.0);
        }
    }
}

fn blank_state() -> Result<HandshakeState, Error> {
    Builder::with_resolver(params(Suite::X25519), Box::new(Blank))
        .local_private_key(&[0; KEY_LEN])?
        .remote_public_key(&[0; KEY_LEN])?
        .psk(PSK_PLACE, &[0; KEY_LEN])?
        .build_initiator()
}

struct Primitives {
    key: Arc<StaticKey>,
    entropy: Arc<dyn Entropy>,
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Draw(Arc::clone(&self.entropy))))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Curve {
            suite: self.key.suite,
            known: Arc::clone(&self.key),
            pair: None,
        }))
    }

    fn resolve_hash(&self, _: &HashChoice) -> Option<Box<dyn Hash>> {
        Some(Box::new(Sha256(digest::Context::new(&digest::SHA256))))
    }

    fn resolve_cipher(&self, _: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(Box::new(Gcm(None)))
    }
}

struct Draw(Arc<dyn Entropy>);

impl Random for Draw {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill_secret(dest);
        Ok(())
    }
}

/// A Diffie-Hellman function with one key pair: the known static one or an ephemeral one.
struct Curve {
    suite: Suite,
    known: Arc<StaticKey>,
    pair: Option<Arc<StaticKey>>,
}

/// What a key that isn't set reads as; never on the wire.
static NO_KEY: [u8; 33] = [0; 33];

impl Dh for Curve {
    fn name(&self) -> &'static str {
        match self.suite {
            Suite::X25519 => "25519",
            Suite::P256 => "P256",
        }
    }

    fn pub_len(&self) -> usize {
        public_len(self.suite)
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn dh_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        let known = constant_time::verify_slices_are_equal(privkey, self.known.private.as_ref());
        // The builder is only ever given the known key.
        self.pair = known.is_ok().then(|| Arc::clone(&self.known));
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        // P-256 refuses one scalar in 2^32; X25519 none.
        for _ in 0..8 {
            let mut private = Zeroizing::new([0; KEY_LEN]);
            rng.try_fill_bytes(private.as_mut())?;
            if let Some(pair) = StaticKey::new(self.suite, &private) {
                self.pair = Some(Arc::new(pair));
                return Ok(());
            }
        }
        Err(Error::Rng)
    }

    fn pubkey(&self) -> &[u8] {
        let none = &NO_KEY[..public_len(self.suite)];
        self.pair.as_ref().map_or(none, |pair| pair.public())
    }

    fn privkey(&self) -> &[u8] {
        let none = &NO_KEY[..KEY_LEN];
        self.pair
            .as_ref()
            .map_or(none, |pair| pair.private.as_slice())
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let pair = self.pair.as_ref().ok_or(Error::Dh)?;
        // snow hands over its whole buffer.
        let pubkey = pubkey.get(..public_len(self.suite)).ok_or(Error::Dh)?;
        // Compressed points only; AWS-LC would also take hybrid ones of another length.
        if self.suite == Suite::P256 && !matches!(pubkey[0], 2 | 3) {
            return Err(Error::Dh);
        }
        let peer = UnparsedPublicKey::new(curve(self.suite), pubkey);
        // AWS-LC refuses an all-zero result, that is, points of small order.
        agreement::agree(&pair.parsed, peer, Error::Dh, |secret| {
            let out = out.get_mut(..secret.len()).ok_or(Error::Dh)?;
            out.copy_from_slice(secret);
            Ok(())
        })
    }
}

struct Sha256(digest::Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let digest = self.0.clone().finish();
        out[..32].copy_from_slice(digest.as_ref());
    }
}

struct Gcm(Option<LessSafeKey>);

/// Noise's nonce for AESGCM: four zero octets, then the counter, big-endian.
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl Cipher for Gcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; KEY_LEN]) {
        self.0 = UnboundKey::new(&AES_256_GCM, key)
            .ok()
            .map(LessSafeKey::new);
    }

    fn encrypt(&self, counter: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let key = self.0.as_ref().expect("snow sets the key first");
        let (text, rest) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        let tag = key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(authtext), text)
            .expect("a handshake message is far below GCM's limit");
        rest[..GCM_TAG_LEN].copy_from_slice(tag.as_ref());
        plaintext.len() + GCM_TAG_LEN
    }

    fn decrypt(
        &self,
        counter: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let len = ciphertext
            .len()
            .checked_sub(GCM_TAG_LEN)
            .ok_or(Error::Decrypt)?;
        let (text, tag) = ciphertext.split_at(len);
        let out = out.get_mut(..len).ok_or(Error::Decrypt)?;
        key.open_separate_gather(nonce(counter), Aad::from(authtext), text, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(len)
    }
}

/// Primitives that compute nothing, for the state that overwrites a used one.
struct Blank;

impl CryptoResolver for Blank {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Blank))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Blank))
    }

    fn resolve_hash(&self, _: &HashChoice) -> Option<Box<dyn Hash>> {
        Some(Box::new(Blank))
    }

    fn resolve_cipher(&self, _: &CipherChoice) -> Option<Box<dyn Cipher>> {
        Some(Box::new(Blank))
    }
}

impl Random for Blank {
    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Error> {
        Err(Error::Rng)
    }
}

impl Dh for Blank {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, _: &[u8]) {}

    fn generate(&mut self, _: &mut dyn Random) -> Result<(), Error> {
        Err(Error::Rng)
    }

    fn pubkey(&self) -> &[u8] {
        &NO_KEY[..KEY_LEN]
    }

    fn privkey(&self) -> &[u8] {
        &NO_KEY[..KEY_LEN]
    }

    fn dh(&self, _: &[u8], _: &mut [u8]) -> Result<(), Error> {
        Err(Error::Dh)
    }
}

impl Hash for Blank {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {}

    fn input(&mut self, _: &[u8]) {}

    fn result(&mut self, _: &mut [u8]) {}
}

impl Cipher for Blank {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, _: &[u8; KEY_LEN]) {}

    fn encrypt(&self, _: u64, _: &[u8], _: &[u8], _: &mut [u8]) -> usize {
        0
    }

    fn decrypt(&self, _: u64, _: &[u8], _: &[u8], _: &mut [u8]) -> Result<usize, Error> {
        Err(Error::Decrypt)
    }
}
