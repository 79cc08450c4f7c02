//! mac1, mac2 and cookies (docs/protocol.md 1.3).

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, digest, hmac};
use cairn_wire::header::{COOKIE_LEN, Cookie, HEADER_LEN, MAC_LEN, Macs, TAG_LEN, cookie};
use zeroize::Zeroizing;

use crate::entropy::Entropy;
use crate::seal::{open_with, seal_with};
use crate::state::Suite;
use crate::time::Time;

/// The secret of cookies changes this often; the one before is still accepted.
const COOKIE_PERIOD: u64 = 120_000_000_000;

/// What a node gives a source that has to prove where it is.
pub(crate) type CookieValue = [u8; 16];

/// The mac1 key of one receiver, and what its cookies are sealed under.
#[derive(Clone)]
pub(crate) struct MacKey {
    pub(crate) suite: Suite,
    mac1: hmac::Key,
    cookie_base: digest::Context,
}

impl MacKey {
    /// Of the receiver that owns `public_key`.
    pub(crate) fn new(suite: Suite, public_key: &[u8]) -> Self {
        let mut cookie_base = digest::Context::new(&digest::SHA256);
        cookie_base.update(b"cookie");
        cookie_base.update(public_key);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"mac1");
        context.update(public_key);
        Self {
            suite,
            mac1: hmac::Key::new(hmac::HMAC_SHA256, context.finish().as_ref()),
            cookie_base,
        }
    }

    /// Whether the sender knows whom it addresses.
    pub(crate) fn verify_mac1(&self, macs: &Macs<'_>) -> bool {
        equal(&truncated(&self.mac1, macs.before_mac1()), &macs.mac1())
    }

    /// Fills mac1 and mac2 into a message that ends with room for them.
    pub(crate) fn fill(&self, message: &mut [u8], cookie: Option<&CookieValue>) {
        let mac1_at = message.len() - 2 * MAC_LEN;
        let mac2_at = message.len() - MAC_LEN;
        let mac1 = truncated(&self.mac1, &message[..mac1_at]);
        message[mac1_at..mac2_at].copy_from_slice(&mac1);
        let mac2 = cookie.map_or([0; MAC_LEN], |cookie| mac2(cookie, &message[..mac2_at]));
        message[mac2_at..].copy_from_slice(&mac2);
    }

    /// Makes the COOKIE that answers an INIT.
    pub(crate) fn seal_cookie(
        &self,
        receiver: u32,
        mac1: &[u8; MAC_LEN],
        value: &CookieValue,
        nonce: [u8; 12],
    ) -> [u8; COOKIE_LEN] {
        let mut message = [0; COOKIE_LEN];
        message[..HEADER_LEN].copy_from_slice(&cookie(receiver, nonce));
        message[HEADER_LEN..COOKIE_LEN - TAG_LEN].copy_from_slice(value);
        seal_with(&self.cookie_key(mac1), &mut message);
        message
    }

    /// Opens the COOKIE that answers our INIT with this mac1.
    pub(crate) fn open_cookie(
        &self,
        message: &Cookie<'_>,
        mac1: &[u8; MAC_LEN],
    ) -> Option<CookieValue> {
        let mut octets = [0; COOKIE_LEN];
        octets[..HEADER_LEN].copy_from_slice(&message.header());
        octets[HEADER_LEN..].copy_from_slice(&message.sealed());
        let plaintext = open_with(&self.cookie_key(mac1), &mut octets)?;
        CookieValue::try_from(&*plaintext).ok()
    }

    fn cookie_key(&self, mac1: &[u8; MAC_LEN]) -> Zeroizing<[u8; 32]> {
        let mut context = self.cookie_base.clone();
        context.update(mac1);
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(context.finish().as_ref());
        key
    }
}

/// Whether the sender of an INIT holds the cookie of its source address.
pub(crate) fn verify_mac2(macs: &Macs<'_>, cookies: &[CookieValue; 2]) -> bool {
    let matches = |cookie| equal(&mac2(cookie, macs.before_mac2()), &macs.mac2());
    matches(&cookies[0]) | matches(&cookies[1])
}

/// The secret behind this node's cookies. Each period's secret is derived from one that is drawn
/// at start and never leaves memory, so that nothing has to wake up to rotate it.
pub(crate) struct CookieSecret(hmac::Key);

impl CookieSecret {
    pub(crate) fn new(entropy: &dyn Entropy) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill_secret(secret.as_mut());
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()))
    }

    /// The cookies of a source that are good now: this period's and the last one's.
    pub(crate) fn of(&self, source: SocketAddr, now: Time) -> [CookieValue; 2] {
        let period = now.as_nanos() / COOKIE_PERIOD + 1;
        [
            self.in_period(source, period),
            self.in_period(source, period - 1),
        ]
    }

    fn in_period(&self, source: SocketAddr, period: u64) -> CookieValue {
        let secret = hmac::sign(&self.0, &period.to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
        let mut input = [0; 18];
        let address = match source.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        input[..16].copy_from_slice(&address);
        input[16..].copy_from_slice(&source.port().to_be_bytes());
        truncated(&key, &input)
    }
}

fn mac2(cookie: &CookieValue, message: &[u8]) -> [u8; MAC_LEN] {
    truncated(&hmac::Key::new(hmac::HMAC_SHA256, cookie), message)
}

fn truncated(key: &hmac::Key, message: &[u8]) -> [u8; MAC_LEN] {
    let mut mac = [0; MAC_LEN];
    mac.copy_from_slice(&hmac::sign(key, message).as_ref()[..MAC_LEN]);
    mac
}

fn equal(a: &[u8; MAC_LEN], b: &[u8; MAC_LEN]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}
